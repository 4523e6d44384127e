"""Heads that learn by a loss or a pooling of their own: attention, asymmetric loss, ordinal, multi-task."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from zoo_basics.heads.class_order import class_order
from zoo_basics.heads.losses import asymmetric_loss, binary_cross_entropy
from zoo_registry import Column, Registry, UsageError
from zoo_registry.options import parse_options

from zoo.assembly.model import TransferModel

REGISTRY = Registry()
LABEL = Column(name="label", classes=("a", "b", "c"))
GRADES = Column(name="grade", classes=tuple(f"grade {i}" for i in range(1, 6)))
TAGS = Column(name="tags", kind="multilabel", classes=("x", "y", "z", "w"))
VALUE = Column(name="value", kind="regression")


def make(name: str, *columns: Column, width: int = 8, seed: int = 0, **options):
    entry = REGISTRY.head(f"basics/{name}")
    parsed = parse_options(entry.spec.options, options, where=f"head.{name}")
    torch.manual_seed(seed)
    return entry.factory()(entry.spec, parsed, width=width, targets=columns).eval()


def shake(head: nn.Module, by: float = 0.5) -> nn.Module:
    """Weights far from where they start, so that every part matters."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) * by)
    return head


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- attention


@pytest.mark.parametrize("queries", [1, 3])
def test_pooling_is_multi_head_attention_of_learned_queries(queries):
    head = shake(make("attention", LABEL, queries=queries, heads=2))
    tokens = drawn(4, 7, 8)
    tokens[1, 5:] = 0
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([torch.eye(8), head.key.weight, head.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([torch.zeros(16), head.value.bias]))
        theirs.out_proj.weight.copy_(head.mix.weight)
        theirs.out_proj.bias.copy_(head.mix.bias)
    even = head.norm(tokens)
    query = head.queries.expand(4, -1, -1)
    expected, _ = theirs(query, even, even, key_padding_mask=(tokens == 0).all(2))
    torch.testing.assert_close(head.pool(tokens), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(head(tokens)["label"], head.layer(expected.flatten(1)), atol=1e-5, rtol=1e-4)


def test_it_starts_as_a_linear_layer_on_the_mean_token():
    head = make("attention", LABEL, width=64)
    tokens = drawn(3, 9, 64)
    mean = F.layer_norm(tokens, (64,)).mean(1)
    torch.testing.assert_close(head.pool(tokens)[:, 0], mean, atol=0.05, rtol=0)


def test_padding_changes_nothing():
    head = shake(make("attention", LABEL, heads=4))
    tokens = drawn(2, 6, 8)
    padded = torch.cat([tokens, torch.zeros(2, 5, 8)], dim=1)
    torch.testing.assert_close(head(padded)["label"], head(tokens)["label"], atol=1e-5, rtol=1e-4)
    empty = torch.zeros(2, 6, 8)
    empty[0] = tokens[0]
    outputs = head(empty)["label"]
    assert outputs.isfinite().all()
    torch.testing.assert_close(outputs[:1], head(tokens[:1])["label"], atol=1e-5, rtol=1e-4)
    empty.requires_grad_()
    head(empty)["label"].sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())
    assert empty.grad.isfinite().all()


def test_a_map_is_its_places_and_zeros_in_it_are_no_padding():
    head = shake(make("attention", LABEL))
    places = drawn(2, 8, 3, 4)
    tokens = places.flatten(2).transpose(1, 2)
    torch.testing.assert_close(head(places)["label"], head(tokens)["label"])
    places[:, :, 1, 2] = 0
    assert not torch.allclose(head(places)["label"], head(places.flatten(2).transpose(1, 2))["label"], atol=1e-3)


def test_every_parameter_learns_from_the_first_step():
    head = make("attention", LABEL, queries=2)
    head.loss(head(drawn(5, 6, 8)), {"label": torch.arange(5) % 3})["label"].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_a_width_that_does_not_divide_names_what_does():
    with pytest.raises(UsageError, match="10 features cannot be divided") as caught:
        make("attention", LABEL, width=10, heads=4)
    assert caught.value.hint == "--set head.heads=2"


# ---- asymmetric loss


def asymmetric(logits, targets, negative, positive, shift) -> np.ndarray:
    """The formula, a label at a time, in double precision."""
    rows = []
    for x_row, y_row in zip(logits.tolist(), targets.tolist(), strict=True):
        found = []
        for x, y in zip(x_row, y_row, strict=True):
            if math.isnan(y):
                continue
            p = 1 / (1 + math.exp(-x))
            q = max(p - shift, 0.0)
            one = (1 - p) ** positive * math.log(p)
            zero = (q**negative if q > 0 or negative == 0 else 0.0) * math.log(1 - q)
            found.append(-(y * one + (1 - y) * zero))
        rows.append(float(np.mean(found)) if found else math.nan)
    return np.array(rows)


@settings(max_examples=60, deadline=None)
@given(
    negative=st.sampled_from([0.0, 0.5, 1.0, 4.0]),
    positive=st.sampled_from([0.0, 0.5, 2.0]),
    shift=st.sampled_from([0.0, 0.05, 0.3]),
    soft=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_asymmetric_loss_is_its_formula(negative, positive, shift, soft, seed):
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(6, 4, generator=draw)
    targets = torch.rand(6, 4, generator=draw) if soft else torch.randint(0, 2, (6, 4), generator=draw).float()
    targets[torch.rand(6, 4, generator=draw) < 0.2] = torch.nan
    targets[3] = torch.nan
    mine = asymmetric_loss(logits, targets, gamma_negative=negative, gamma_positive=positive, shift=shift)
    np.testing.assert_allclose(mine, asymmetric(logits.double(), targets, negative, positive, shift), atol=1e-5)


def test_without_exponents_and_shift_it_is_the_binary_cross_entropy():
    logits, targets = 30 * drawn(5, 4), (drawn(5, 4, seed=2) > 0).float()
    plain = asymmetric_loss(logits, targets, gamma_negative=0, gamma_positive=0, shift=0)
    torch.testing.assert_close(plain, binary_cross_entropy(logits, targets))


@pytest.mark.parametrize("gammas", [(4.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_extreme_logits_and_missing_labels_keep_gradients_finite(gammas):
    logits = torch.tensor([[-200.0, -3.0, 0.0, 200.0]] * 3, requires_grad=True)
    targets = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [torch.nan] * 4])
    loss = asymmetric_loss(logits, targets, gamma_negative=gammas[0], gamma_positive=gammas[1], shift=0.05)
    assert loss[:2].isfinite().all()
    torch.where(loss.isnan(), 0.0, loss).sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[2] == 0).all()


def test_the_multilabel_head_takes_it_as_an_option_and_plain_is_the_default():
    plain, other = make("multilabel", TAGS), make("multilabel", TAGS, loss="asl", gamma_positive=1)
    x, targets = drawn(6, 8), {"tags": (drawn(6, 4, seed=3) > 0).float()}
    logits = shake(plain)(x)
    torch.testing.assert_close(
        plain.loss(logits, targets)["tags"], binary_cross_entropy(logits["tags"], targets["tags"])
    )
    wanted = asymmetric(logits["tags"].double(), targets["tags"], 4, 1, 0.05)
    np.testing.assert_allclose(other.loss(logits, targets)["tags"].detach(), wanted, atol=1e-5)


# ---- ordinal


@pytest.mark.parametrize(
    ("classes", "ranked"),
    [
        (("10", "2", "9"), ("2", "9", "10")),
        (("-10", "-2", "3"), ("-10", "-2", "3")),
        (("-2", "-10", "3"), ("-10", "-2", "3")),
        (("0.5", "0.25", "1e3"), ("0.25", "0.5", "1e3")),
        (("grade 10", "grade 9"), ("grade 9", "grade 10")),
        (("10-19", "0-9", "100-109"), ("0-9", "10-19", "100-109")),
    ],
)
def test_numbers_say_their_order(classes, ranked):
    order = class_order(Column(name="x", classes=classes))
    assert tuple(classes[place] for place in order) == ranked


def test_words_need_an_order_and_a_wrong_one_is_named():
    column = Column(name="size", classes=("large", "medium", "small"))
    with pytest.raises(UsageError, match="cannot tell the order of the classes 'large', 'medium', 'small'") as caught:
        class_order(column)
    assert "--set head.order=" in caught.value.hint
    assert class_order(column, ("tiny", "small", "medium", "large")) == [2, 1, 0]
    with pytest.raises(UsageError, match="lacks 'small'"):
        class_order(column, ("medium", "large"))
    with pytest.raises(UsageError, match="names 'small' twice"):
        class_order(column, ("small", "medium", "small", "large"))
    with pytest.raises(UsageError, match="cannot tell"):
        class_order(Column(name="x", classes=("01", "1")))


def ranked_head(method: str, classes: int = 5, seed: int = 0):
    """A head whose label map is not in rank order, and the rank of each class."""
    names = [str(number) for number in range(classes)]
    ranks = np.random.default_rng(seed).permutation(classes)
    column = Column(name="grade", classes=tuple(names[rank] for rank in ranks))
    return shake(make("ordinal", column, method=method, seed=seed)), ranks.tolist()


def test_coral_is_a_sum_of_binary_questions_with_shared_weights():
    head, ranks = ranked_head("coral")
    x, targets = drawn(7, 8), torch.arange(7) % 5
    score = (x @ head.layer.weight.T)[:, 0]
    levels = head.first[0] - F.pad((F.softplus(head.gaps[0]) + 1e-4).cumsum(0), (1, 0))
    logits = score[:, None] + levels
    wanted = torch.tensor([ranks[t] for t in targets])
    above = (wanted[:, None] > torch.arange(4)).float()
    expected = F.binary_cross_entropy_with_logits(logits, above, reduction="none").sum(1)
    outputs = head(x)
    torch.testing.assert_close(head.loss(outputs, {"grade": targets})["grade"], expected, atol=1e-4, rtol=1e-4)
    edges = F.pad(F.pad(logits.sigmoid(), (1, 0), value=1.0), (0, 1))
    torch.testing.assert_close(
        head.decode(outputs)["grade"], (edges[:, :-1] - edges[:, 1:])[:, ranks], atol=1e-5, rtol=1e-4
    )


def test_corn_is_a_chain_of_conditional_questions():
    head, ranks = ranked_head("corn")
    x, targets = drawn(7, 8), torch.arange(7) % 5
    logits = head.layer(x)
    expected = []
    for row, target in zip(logits, targets, strict=True):
        asked = range(min(ranks[target] + 1, 4))  # whether it goes on, as long as it got there
        answers = [torch.tensor(float(ranks[target] > k)) for k in asked]
        expected.append(sum(F.binary_cross_entropy_with_logits(row[k], a) for k, a in zip(asked, answers, strict=True)))
    outputs = head(x)
    torch.testing.assert_close(
        head.loss(outputs, {"grade": targets})["grade"], torch.stack(expected), atol=1e-5, rtol=1e-4
    )
    go = logits.sigmoid()
    chain = torch.stack([go[:, :k].prod(1) * (1 - go[:, k] if k < 4 else 1) for k in range(5)], dim=1)
    torch.testing.assert_close(head.decode(outputs)["grade"], chain[:, ranks], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", ["coral", "corn"])
@pytest.mark.parametrize("classes", [2, 3, 11])
def test_probabilities_add_up_and_start_even(method, classes):
    column = Column(name="grade", classes=tuple(map(str, range(classes))))
    head = make("ordinal", column, method=method)
    scores = head.decode(head(torch.zeros(1, 8)))["grade"]
    torch.testing.assert_close(scores, torch.full((1, classes), 1 / classes), atol=1e-4, rtol=0)
    shake(head, 3.0)
    scores = head.decode(head(5 * drawn(50, 8)))["grade"]
    torch.testing.assert_close(scores.sum(1), torch.ones(50))
    assert (scores >= 0).all()
    inputs = drawn(9, 8).requires_grad_()
    head.loss(head(inputs), {"grade": torch.arange(9) % classes})["grade"].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("method", ["coral", "corn"])
def test_soft_labels_and_mixes_give_the_mean_of_the_losses(method):
    head, _ = ranked_head(method)
    outputs = head(drawn(4, 8))
    first, second = torch.tensor([0, 1, 2, 3]), torch.tensor([4, 4, 0, 3])
    soft = 0.3 * F.one_hot(first, 5) + 0.7 * F.one_hot(second, 5)
    soft[3] = torch.nan
    mixed = head.loss(outputs, {"grade": soft})["grade"]
    apart = [head.loss(outputs, {"grade": t})["grade"] for t in (first, second)]
    torch.testing.assert_close(mixed[:3], (0.3 * apart[0] + 0.7 * apart[1])[:3], atol=1e-5, rtol=1e-4)
    assert mixed[3].isnan()


def test_far_misses_cost_more_with_coral():
    head = make("ordinal", GRADES, method="coral")
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    x = torch.zeros(1, 8)
    for _ in range(80):
        optimiser.zero_grad()
        head.loss(head(x), {"grade": torch.tensor([0])})["grade"].sum().backward()
        optimiser.step()
    every = {"grade": torch.arange(5)}
    losses = head.loss({"grade": head(x)["grade"].expand(5, 5)}, every)["grade"].tolist()
    assert losses == sorted(losses)
    assert losses[4] > 2 * losses[1]


def test_ranks_off_are_counted_in_the_given_order():
    column = Column(name="size", classes=("large", "medium", "small"))
    head = make("ordinal", column, order="small,medium,large")
    outputs = {"size": torch.eye(3)[[0, 0, 0, 1]].log().clamp(min=-9)}
    found = head.metrics(outputs, {"size": torch.tensor([0, 1, 2, -1])})["size"]["rank_mae"]
    assert found[:3].tolist() == [0, 1, 2]
    assert found[3].isnan()


# ---- multi-task


MIXED = (LABEL, TAGS, VALUE)


def mixed_targets(samples: int = 6) -> dict[str, torch.Tensor]:
    return {
        "label": torch.arange(samples) % 3,
        "tags": (drawn(samples, 4, seed=4) > 0).float(),
        "value": 50 + 4 * drawn(samples, seed=5),
    }


def test_losses_are_weighed_by_learned_variances():
    head = shake(make("multi-task", *MIXED))
    targets = mixed_targets()
    head.prepare_targets(targets)
    with torch.no_grad():
        for raw, value in zip(head.raw, (0.03, -0.05, 0.1), strict=True):
            raw.fill_(value)
    outputs = head(drawn(6, 8))
    losses = head.loss(outputs, targets)
    s = [4 * math.tanh(10 * value / 4) for value in (0.03, -0.05, 0.1)]
    plain = {
        "label": F.cross_entropy(outputs["label"], targets["label"], reduction="none"),
        "tags": F.binary_cross_entropy_with_logits(outputs["tags"], targets["tags"], reduction="none").mean(1),
        "value": ((outputs["value"] - targets["value"]) / targets["value"].std(correction=0)).square(),
    }
    for name, each, half in zip(plain, s, (1, 1, 0.5), strict=True):
        expected = half * math.exp(-each) * plain[name] + each / 2
        torch.testing.assert_close(losses[name], expected, atol=1e-5, rtol=1e-4)
    equal = make("multi-task", *MIXED, weighting="equal")
    equal.load_state_dict({k: v for k, v in head.state_dict().items() if not k.startswith("raw")})
    for name, loss in equal.loss(outputs, targets).items():
        torch.testing.assert_close(loss, plain[name], atol=1e-5, rtol=1e-4)


def test_variances_go_to_the_losses_that_stay():
    """For losses that nothing lowers, ``s`` ends at ``log 2L``, of regression at ``log L``."""
    head = make("multi-task", LABEL, VALUE)
    outputs = {"label": torch.zeros(6, 3), "value": torch.full((6,), 3.0)}
    targets = {"label": torch.arange(6) % 3, "value": torch.zeros(6)}
    optimiser = torch.optim.Adam(head.raw.parameters(), lr=0.01)
    for _ in range(400):
        optimiser.zero_grad()
        sum(loss.mean() for loss in head.loss(outputs, targets).values()).backward()
        optimiser.step()
    assert head.log_variance(0).item() == pytest.approx(math.log(2 * math.log(3)), abs=1e-2)
    assert head.log_variance(1).item() == pytest.approx(math.log(9), abs=1e-2)


class Straight(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_column_missing_from_a_batch_does_not_move_its_weight(missing):
    head = shake(make("multi-task", *MIXED))
    targets = mixed_targets()
    head.prepare_targets(targets)
    model = TransferModel(Straight(), head, MIXED)
    optimiser = torch.optim.AdamW(head.parameters(), lr=0.1)
    x = drawn(6, 8)
    model.loss(head(x), targets).backward()
    optimiser.step()  # momentum is there now
    optimiser.zero_grad(set_to_none=True)
    name = MIXED[missing].name
    gone = torch.full_like(targets[name], -1 if name == "label" else torch.nan)
    before = copy.deepcopy(head.state_dict())
    model.loss(head(x), {**targets, name: gone}).backward()
    optimiser.step()
    moved = {key for key, value in head.state_dict().items() if not torch.equal(value, before[key])}
    assert {key for key in moved if key.startswith("raw")} == {f"raw.{i}" for i in range(3) if i != missing}


def test_missing_labels_are_as_if_their_samples_were_not_there():
    head = shake(make("multi-task", *MIXED))
    targets, x = mixed_targets(), drawn(6, 8)
    head.prepare_targets(targets)
    model = TransferModel(Straight(), head, MIXED)
    kept = torch.tensor([0, 2, 3, 5])

    def gradients(chosen: torch.Tensor, wanted: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        head.zero_grad()
        model.loss(head(chosen), wanted).backward()
        return {name: p.grad.clone() for name, p in head.named_parameters()}

    holes = {name: values.clone() for name, values in targets.items()}
    for name, values in holes.items():
        values[[1, 4]] = -1 if name == "label" else torch.nan
    whole = gradients(x[kept], {name: values[kept] for name, values in targets.items()})
    for name, gradient in gradients(x, holes).items():
        torch.testing.assert_close(gradient, whole[name], atol=1e-6, rtol=1e-4)


def test_a_batch_without_any_label_has_a_gradient_of_zero():
    head = make("multi-task", *MIXED)
    gone = {"label": torch.full((4,), -1), "tags": torch.full((4, 4), torch.nan), "value": torch.full((4,), torch.nan)}
    loss = TransferModel(Straight(), head, MIXED).loss(head(drawn(4, 8)), gone)
    loss.backward()
    assert float(loss) == 0
    assert all(p.grad is None or not p.grad.any() for p in head.parameters())


def test_weights_of_columns_stay_within_bounds():
    head = make("multi-task", LABEL, VALUE)
    with torch.no_grad():
        head.raw[0].fill_(100.0)
        head.raw[1].fill_(-100.0)
    assert [head.log_variance(place).item() for place in (0, 1)] == pytest.approx([4, -4])


def test_each_column_is_decoded_as_its_kind_wants_and_one_alone_folds():
    head = shake(make("multi-task", *MIXED, threshold=0.3))
    scores = head.decode(head(drawn(5, 8)))
    torch.testing.assert_close(scores["label"].sum(1), torch.ones(5))
    assert scores["tags"].shape == (5, 4)
    assert scores["value"].shape == (5,)
    assert head.threshold == 0.3
    assert head.fold() is None
    one = shake(make("multi-task", LABEL))
    folded = one.fold()
    x = drawn(5, 8)
    torch.testing.assert_close(F.linear(x, folded.weight, folded.bias), one(x)["label"])
    assert not hasattr(one, "raw")
