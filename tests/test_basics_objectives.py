"""``focal`` and ``logit-adjustment`` against torchvision's loss and plain re-derivations, with any kind of target."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny_zoo
import torch
import torch.nn.functional as F
from tiny_runs import Halt, make_run, phase, same_bits, train_here
from torch import nn
from torchvision.ops import sigmoid_focal_loss
from zoo_basics.strategies.focal import sigmoid_focal, softmax_focal
from zoo_registry import Batch, Column, Registry, UsageError
from zoo_registry.options import parse_options

from zoo.assembly.model import TransferModel

REGISTRY = Registry()
COUNT = 9
LABEL = Column(name="label", classes=("a", "b", "c"))
TAGS = Column(name="tags", kind="multilabel", classes=("x", "y", "z", "w"))
SIZE = Column(name="size", kind="regression")
COUNTS = {"label": torch.tensor([60, 30, 10]), "tags": torch.tensor([80, 20, 5, 50])}


def part(name: str, **options):
    """The spec and the strategy."""
    entry = REGISTRY.strategy(f"basics/{name}")
    return entry.spec, entry.factory()(entry.spec, parse_options(entry.spec.options, options, where=name))


def make_model(head: str, *columns: Column, **options) -> TransferModel:
    """A model on features of width 5, in float64."""
    entry = REGISTRY.head(f"basics/{head}")
    chosen = parse_options(entry.spec.options, options, where="head")
    torch.manual_seed(0)
    top = entry.factory()(entry.spec, chosen, width=5, targets=columns)
    with torch.no_grad():
        for parameter in top.parameters():
            if parameter.ndim:
                parameter.normal_()
    return TransferModel(nn.Identity(), top, columns).double()


def fake_run(*columns: Column, strategies=()) -> SimpleNamespace:
    """What the objectives read of a run."""
    tags = torch.zeros(100, 4)
    for place, count in enumerate(COUNTS["tags"]):
        tags[:count, place] = 1
    targets = {"tags": tags}
    return SimpleNamespace(columns=columns, class_counts=COUNTS, targets=targets, strategies=strategies)


def drawn_targets(column: Column) -> torch.Tensor:
    """Nine targets, some of them missing."""
    draw = torch.Generator().manual_seed(3)
    if column.kind == "classification":
        return torch.tensor([0, 1, 2, -1, 2, 1, 0, 0, -1])
    if column.kind == "multilabel":
        tags = (torch.rand(COUNT, 4, generator=draw) < 0.5).float()
        tags[3], tags[5, 1] = torch.nan, torch.nan
        return tags
    return torch.randn(COUNT, generator=draw).masked_fill(torch.arange(COUNT) == 7, torch.nan)


def make_batch(*columns: Column, **more) -> Batch:
    """Nine samples of features."""
    features = torch.randn(COUNT, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Batch({}, {c.name: drawn_targets(c) for c in columns}, ids=range(COUNT), features=features, **more)


def objective(name: str, model: TransferModel, batch: Batch, **options) -> torch.Tensor:
    """The loss of the strategy; its gradients are finite."""
    _, strategy = part(name, **options)
    run = fake_run(*model.columns)
    strategy.prepare(model, run)
    assert strategy.explain(model, run)
    losses = strategy.objective(model, {"train": batch}, run)
    loss = torch.stack(list(losses.values())).sum()
    loss.backward(retain_graph=True)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    return loss


# ------------------------------------------------------------------ focal


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_of_softmax_is_the_papers_formula(gamma):
    model, batch = make_model("linear", LABEL), make_batch(LABEL)
    logits, labels = model(batch).outputs["label"], batch.targets["label"]
    wanted = [-((1 - p[y]) ** gamma) * p[y].log() for p, y in zip(logits.softmax(1), labels, strict=True) if y >= 0]
    torch.testing.assert_close(objective("focal", model, batch, gamma=gamma), torch.stack(wanted).mean())
    if gamma == 0:
        torch.testing.assert_close(objective("focal", model, batch, gamma=0), model.supervised(batch))


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (1.5, 0.9)])
def test_focal_of_sigmoids_is_torchvisions(gamma, alpha):
    model, batch = make_model("multilabel", TAGS), make_batch(TAGS)
    logits, tags = model(batch).outputs["tags"], batch.targets["tags"].double()
    each = sigmoid_focal_loss(logits, tags.nan_to_num(0.0), alpha=alpha, gamma=gamma, reduction="none")
    means = [row[~t.isnan()].mean() for row, t in zip(each, tags, strict=True) if not t.isnan().all()]
    torch.testing.assert_close(objective("focal", model, batch, gamma=gamma, alpha=alpha), torch.stack(means).mean())
    plain = sigmoid_focal_loss(logits, tags.nan_to_num(0.0), alpha=-1, gamma=gamma, reduction="none")
    one = sigmoid_focal(logits, tags, gamma, torch.ones(4), torch.ones(4))
    torch.testing.assert_close(one[0], plain[0].mean())


def test_gradients_are_finite_where_all_is_right_or_wrong():
    for gamma in (0.2, 1.0, 2.0):
        logits = torch.tensor([[200.0, -200.0, 0.0], [-200.0, 200.0, 0.0]], requires_grad=True)
        weights = torch.ones(3)
        softmax_focal(logits, torch.tensor([0, 0]), gamma, weights, weights).sum().backward()
        sigmoid_focal(logits, torch.tensor([[1.0, 0, 1], [1.0, 0, 0]]), gamma, weights, weights).sum().backward()
        assert logits.grad.isfinite().all()
        assert float(logits.grad[1, 0]) < 0


def test_balanced_weighs_classes_by_their_inverse_size():
    model, batch = make_model("linear", LABEL), make_batch(LABEL)
    logs = model(batch).outputs["label"].log_softmax(1)
    weights = 100 / (3 * COUNTS["label"].double())
    chosen = [(i, y) for i, y in enumerate(batch.targets["label"].tolist()) if y >= 0]
    wanted = torch.stack([-weights[y] * (1 - logs[i, y].exp()) ** 2 * logs[i, y] for i, y in chosen]).mean()
    torch.testing.assert_close(objective("focal", model, batch, alpha="balanced"), wanted)
    assert float((weights * COUNTS["label"]).sum() / 100) == pytest.approx(1.0)  # the mean sample keeps its weight

    model, batch = make_model("multilabel", TAGS), make_batch(TAGS)
    share = COUNTS["tags"].double() / 100
    tags = batch.targets["tags"].double()
    p = model(batch).outputs["tags"].sigmoid()
    each = -tags * (1 - share) * (1 - p) ** 2 * p.log() - (1 - tags) * share * p**2 * (1 - p).log()
    torch.testing.assert_close(objective("focal", model, batch, alpha="balanced"), each.nanmean(1).nanmean())


def test_columns_with_a_loss_of_their_own_keep_it():
    columns = (LABEL, TAGS, SIZE)
    model, batch = make_model("multi-task", *columns, weighting="equal"), make_batch(*columns)
    outputs = model(batch).outputs
    size = model.loss({"size": outputs["size"]}, {"size": batch.targets["size"]})
    one = objective("focal", model, batch, gamma=2.0)
    softmax = softmax_focal(outputs["label"], batch.targets["label"], 2.0, torch.ones(3), torch.ones(3)).nanmean()
    sigmoid = sigmoid_focal(outputs["tags"], batch.targets["tags"], 2.0, torch.ones(4), torch.ones(4)).nanmean()
    torch.testing.assert_close(one, softmax + sigmoid + size)
    asymmetric = make_model("multi-task", *columns, weighting="equal", multilabel="asl")
    _, focal = part("focal")
    focal.prepare(asymmetric, fake_run(*columns))
    assert focal.plain == {"label": "softmax"}
    assert "tags, size: the head's own loss" in focal.explain(asymmetric, fake_run(*columns))


@pytest.mark.parametrize(
    ("head", "columns", "options"),
    [
        ("regression", (SIZE,), {}),
        ("multilabel", (TAGS,), {"loss": "asl"}),
        ("multi-task", (LABEL, TAGS), {"weighting": "uncertainty"}),
    ],
)
def test_focal_without_a_column_for_it_is_refused(head, columns, options):
    model = make_model(head, *columns, **options)
    with pytest.raises(UsageError, match="'focal' is for softmax or sigmoid losses"):
        part("focal")[1].prepare(model, fake_run(*columns))


def test_an_alpha_that_would_do_nothing_is_refused():
    with pytest.raises(UsageError, match=r"alpha=0\.25 weighs labels that apply") as caught:
        part("focal", alpha=0.25)[1].prepare(make_model("linear", LABEL), fake_run(LABEL))
    assert "balanced" in caught.value.hint
    with pytest.raises(UsageError, match="neither a number"):
        part("focal", alpha="inverse")


# ------------------------------------------------------------------ logit adjustment


@pytest.mark.parametrize("tau", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_logit_adjustment_is_the_papers_formula(head, tau):
    model, batch = make_model(head, LABEL), make_batch(LABEL)
    prior = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    adjusted = model(batch).outputs["label"] + tau * prior.log()
    wanted = F.cross_entropy(adjusted, batch.targets["label"], ignore_index=-1)
    torch.testing.assert_close(objective("logit-adjustment", model, batch, tau=tau), wanted, rtol=1e-6, atol=1e-6)
    _, strategy = part("logit-adjustment", tau=tau)
    strategy.prepare(model, fake_run(LABEL))
    before = model(batch).outputs["label"].clone()
    strategy.objective(model, {"train": batch}, fake_run(LABEL))
    assert torch.equal(model(batch).outputs["label"], before)  # the pass is shared with others


def test_only_softmax_columns_are_adjusted_whatever_weighs_them():
    columns = (LABEL, TAGS, SIZE)
    model, batch = make_model("multi-task", *columns, weighting="uncertainty"), make_batch(*columns)
    with torch.no_grad():
        model.head.raw[0].fill_(0.05)
    outputs = dict(model(batch).outputs)
    outputs["label"] = outputs["label"] + torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log()
    wanted = model.loss(outputs, batch.targets)
    torch.testing.assert_close(objective("logit-adjustment", model, batch), wanted, rtol=1e-6, atol=1e-6)
    with pytest.raises(UsageError, match="'logit-adjustment' is for softmax columns"):
        part("logit-adjustment")[1].prepare(make_model("multilabel", TAGS), fake_run(TAGS))


def test_balancing_twice_is_said():
    _, strategy = part("logit-adjustment")
    run = fake_run(LABEL, strategies=("basics/class-balanced", "basics/logit-adjustment"))
    strategy.prepare(make_model("linear", LABEL), run)
    assert "twice" in strategy.explain(None, run)[-1]
    assert len(strategy.explain(None, fake_run(LABEL))) == 1


def test_the_optimum_of_logit_adjustment_ignores_the_prior():
    """Features that say nothing: plain training learns the prior, the adjusted one learns equal logits."""
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    found = {}
    for tau in (0.0, 1.0):
        model = make_model("linear", LABEL)
        batch = Batch({}, {"label": labels}, ids=range(100), features=torch.zeros(100, 5, dtype=torch.float64))
        _, strategy = part("logit-adjustment", tau=tau)
        strategy.prepare(model, fake_run(LABEL))
        optimiser = torch.optim.LBFGS(model.parameters(), max_iter=200)

        def step(strategy=strategy, model=model, batch=batch, optimiser=optimiser):
            optimiser.zero_grad()
            batch.passes.clear()
            loss = strategy.objective(model, {"train": batch}, None)["adjusted"]
            loss.backward()
            return loss

        optimiser.step(step)
        batch.passes.clear()
        found[tau] = model(batch).outputs["label"][0].softmax(0).detach()
    torch.testing.assert_close(found[0.0], torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64), rtol=0, atol=1e-3)
    torch.testing.assert_close(found[1.0], torch.full((3,), 1 / 3, dtype=torch.float64), rtol=0, atol=1e-3)


# ------------------------------------------------------------------ both, with what else may be in a batch


@pytest.mark.parametrize("name", ["focal", "logit-adjustment"])
def test_mixed_batches_weights_and_soft_labels(name):
    """The loss is linear in the labels: a mixed batch is the mix of its parts, a soft label that of its classes."""
    weights = torch.linspace(0.2, 2.0, COUNT).double()
    order = torch.arange(COUNT).flip(0)
    share = torch.linspace(0.1, 0.9, COUNT).double()
    model, labels = make_model("linear", LABEL), torch.tensor([0, 1, 2, 0, 2, 1, 0, 0, 1])

    def loss(targets, weights=None, mix=None):
        batch = make_batch(LABEL, weights=weights, mix=mix)
        batch.targets = {"label": targets}
        return objective(name, model, batch)

    each = torch.stack([loss(labels, F.one_hot(torch.tensor(i), COUNT).double()) * COUNT for i in range(COUNT)])
    torch.testing.assert_close(loss(labels), each.mean())
    torch.testing.assert_close(loss(labels, weights), (weights * each).mean())
    others = loss(labels[order], (1 - share) * weights)
    mix = [({"label": labels}, share), ({"label": labels[order]}, 1 - share)]
    torch.testing.assert_close(loss(labels, weights, mix), loss(labels, share * weights) + others)
    soft = share[:, None] * F.one_hot(labels, 3) + (1 - share[:, None]) * F.one_hot(labels[order], 3)
    torch.testing.assert_close(loss(soft), loss(labels, share) + loss(labels[order], 1 - share))
    soft[2] = torch.nan
    present = torch.tensor([i for i in range(COUNT) if i != 2])
    kept = [loss(soft[i : i + 1].expand(COUNT, -1), F.one_hot(i, COUNT).double()) * COUNT for i in present]
    torch.testing.assert_close(loss(soft), torch.stack(kept).mean())


@pytest.mark.parametrize(
    "names", [("focal", "mixup", "label-smoothing", "ema"), ("logit-adjustment", "class-balanced")]
)
def test_in_the_loop_they_learn_and_resume(names, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)
    data = tiny_zoo.drawn_splits(40)
    made = lambda: make_run([phase(*(part(name) for name in names), epochs=3)], data)  # noqa: E731
    whole = made()
    rows = train_here(whole)
    assert rows[2]["losses"].keys() == {"focal" if "focal" in names else "adjusted"}
    assert rows[2]["train_loss"] < rows[0]["train_loss"]
    with pytest.raises(Halt):
        train_here(made(), tmp_path, 4)
    resumed = made()
    assert train_here(resumed, tmp_path) == rows
    assert same_bits(resumed.model.state_dict(), whole.model.state_dict())
