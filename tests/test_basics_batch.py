"""``mixup``, ``cutmix`` and ``label-smoothing`` against timm's Mixup and torch's losses, with any kind of target."""

from __future__ import annotations

import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import timm.data.mixup as timm_mixup
import torch
import torch.nn.functional as F
from tiny_runs import Halt, make_run, phase, same_bits, train_here
from torch import nn
from zoo_basics.strategies import cutmix as cutmix_module
from zoo_basics.strategies import mixup as mixup_module
from zoo_basics.strategies.label_smoothing import smooth
from zoo_registry import Batch, Column, Registry, UsageError
from zoo_registry.options import parse_options
from zoo_registry.strategy import compose

from zoo.assembly.model import TransferModel
from zoo.recipe.recipe import Component, PhaseRecipe
from zoo.training.run import Phase

REGISTRY = Registry()
COUNT, CLASSES = 8, 4
LABEL = Column(name="label", classes=("a", "b", "c", "d"))
COLUMNS = {
    "classification": LABEL,
    "multilabel": Column(name="tags", kind="multilabel", classes=("x", "y", "z")),
    "regression": Column(name="size", kind="regression"),
}
HEADS = {"classification": "linear", "multilabel": "multilabel", "regression": "regression"}


def part(name: str, **options):
    """The spec and the strategy."""
    entry = REGISTRY.strategy(f"basics/{name}")
    return entry.spec, entry.factory()(entry.spec, parse_options(entry.spec.options, options, where=name))


def fake_run(*strategies: str, columns=(LABEL,), step: int = 0) -> SimpleNamespace:
    """What the strategies of role batch read of a run."""

    def generator(name: str) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(f"{step} {name}".encode()))

    return SimpleNamespace(columns=columns, generator=generator, strategies=tuple(f"basics/{s}" for s in strategies))


def labels_with_gaps(kind: str) -> torch.Tensor:
    """Targets of 8 samples, some of them missing."""
    draw = torch.Generator().manual_seed(4)
    if kind == "classification":
        return torch.tensor([0, 1, -1, 3, 2, 2, -1, 0])
    if kind == "multilabel":
        tags = (torch.rand(COUNT, 3, generator=draw) < 0.5).float()
        tags[2] = torch.nan
        tags[5, 1] = torch.nan
        return tags
    values = torch.randn(COUNT, generator=draw)
    return values.masked_fill(torch.arange(COUNT) == 6, torch.nan)


def make_batch(kind: str = "classification", **more) -> Batch:
    """Eight images with the labels of one column."""
    draw = torch.Generator().manual_seed(1)
    views = {name: torch.randn(COUNT, 3, 8, 6, generator=draw) for name in ("train", "strong")}
    return Batch(views, {COLUMNS[kind].name: labels_with_gaps(kind)}, ids=list(range(COUNT)), **more)


def make_model(kind: str) -> TransferModel:
    """A model of one column, in float64."""
    entry = REGISTRY.head(f"basics/{HEADS[kind]}")
    torch.manual_seed(0)
    head = entry.factory()(
        entry.spec, parse_options(entry.spec.options, {}, where="x"), width=5, targets=(COLUMNS[kind],)
    )
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 6, 5))
    return TransferModel(backbone, head, (COLUMNS[kind],)).double()


def share_of(mixed: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """By least squares, the share of ``first`` in ``mixed``, a sample each."""
    gap = (first - second).flatten(1)
    return ((mixed - second).flatten(1) * gap).sum(1) / gap.square().sum(1)


# ------------------------------------------------------------------ mixup


def test_mixup_is_timms_for_the_same_share_and_partners(monkeypatch):
    batch, lam = make_batch(), 0.3
    x, y = batch.views["train"].clone(), torch.tensor([0, 1, 2, 3, 2, 2, 1, 0])
    monkeypatch.setattr(np.random, "beta", lambda a, b: lam)
    timm = timm_mixup.Mixup(mixup_alpha=1.0, label_smoothing=0.1, num_classes=CLASSES)
    wanted, wanted_targets = timm(x.clone(), y)
    flipped = torch.arange(COUNT - 1, -1, -1)
    torch.testing.assert_close(mixup_module.blend(x, flipped, torch.tensor([lam])), wanted)

    batch.targets = {"label": y}
    monkeypatch.setattr(torch, "randperm", lambda count, generator: flipped)
    _, mixup = part("mixup")
    monkeypatch.setattr(mixup, "_shares", lambda count, draw: [lam])
    smoothing = part("label-smoothing")[1]
    smoothing.prepare(None, fake_run())
    mixed = smoothing.alter(mixup.alter(batch, fake_run("mixup")), fake_run())
    torch.testing.assert_close(mixed.views["train"], wanted)
    targets = sum(weights[:, None] * targets["label"] for targets, weights in mixed.parts())
    torch.testing.assert_close(targets, wanted_targets)


@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize("kind", list(COLUMNS))
def test_the_loss_of_a_mixed_batch_is_the_mixed_loss(kind, per):
    """For every kind of target, missing ones and per-sample weights included, with one share or one a sample."""
    weights = torch.linspace(0.5, 2.0, COUNT)
    batch, model = make_batch(kind, weights=weights), make_model(kind)
    targets, before = dict(batch.targets), {name: view.clone() for name, view in batch.views.items()}
    _, mixup = part("mixup", alpha=1.0, per=per)
    mixed = mixup.alter(batch, fake_run("mixup"))
    assert mixed.weights is None
    ((own, w_own), (_, w_other)) = mixed.mix
    column = COLUMNS[kind].name
    assert torch.equal(own[column].nan_to_num(7), targets[column].nan_to_num(7))
    shares = w_own / weights
    partners = w_other / (1 - shares)  # of the partners' weights
    order = [int((weights - w).abs().argmin()) for w in partners]
    assert sorted(order) == list(range(COUNT))
    assert len({round(float(s), 5) for s in shares}) == (1 if per == "batch" else COUNT)
    for name, view in before.items():  # all views are mixed alike
        found = share_of(mixed.views[name], view, view[order])
        for i, (j, share) in enumerate(zip(order, shares, strict=True)):
            assert i == j or float(found[i]) == pytest.approx(float(share), abs=1e-4)

    outputs = model(Batch({"train": mixed.views["train"].double()}, ids=range(COUNT))).outputs
    double = Batch({"train": mixed.views["train"].double()}, mixed.targets, None, mixed.mix, range(COUNT))
    loss = model.supervised(double)
    one = model.head.loss(outputs, targets)[column]
    two = model.head.loss(outputs, {column: targets[column][order]})[column]
    present = int((~one.isnan()).sum())
    wanted = ((shares * weights) * one).nansum() / present + ((1 - shares) * weights[order] * two).nansum() / present
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_alpha_says_how_the_shares_lie():
    draws = {}
    for alpha in (0.2, 1.0, 5.0):
        mixup = part("mixup", alpha=alpha, per="sample")[1]
        shares = torch.tensor(mixup._shares(4000, torch.Generator().manual_seed(0)))
        draws[alpha] = shares
        assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
        assert float(shares.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)  # of Beta(alpha, alpha)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_prob_is_how_often_something_is_mixed(name):
    _, mixer = part(name, prob=0.25)
    mixed = [mixer.alter(make_batch(), fake_run(name, step=step)).mix is not None for step in range(400)]
    assert sum(mixed) / 400 == pytest.approx(0.25, abs=0.07)
    untouched = part(name, prob=0.0)[1].alter(make_batch(), fake_run(name))
    assert untouched.mix is None
    assert torch.equal(untouched.views["train"], make_batch().views["train"])
    each = part(name, prob=0.5, per="sample", alpha=1.0)[1].alter(make_batch(), fake_run(name))
    assert 0 < int((each.mix[0][1] < 1).sum()) < COUNT


def test_a_batch_of_one_is_left_alone():
    batch = Batch({"train": torch.ones(1, 3, 8, 6)}, {"label": torch.tensor([1])}, ids=[0])
    assert part("mixup")[1].alter(batch, fake_run("mixup")).mix is None


# ------------------------------------------------------------------ cutmix


@pytest.mark.parametrize("lam", [0.05, 0.4, 0.73, 0.99])
@pytest.mark.parametrize("centre", [(0, 0), (3, 5), (7, 2)])
def test_cutmix_is_timms_for_the_same_share_and_centre(lam, centre, monkeypatch):
    x, size = make_batch().views["train"], (8, 6)
    places = iter(centre)
    monkeypatch.setattr(np.random, "beta", lambda a, b: lam)
    monkeypatch.setattr(np.random, "randint", lambda low, high, size=None: next(places))
    timm = timm_mixup.Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=CLASSES)
    y = torch.tensor([0, 1, 2, 3, 2, 2, 1, 0])
    wanted, wanted_targets = timm(x.clone(), y)
    cut = cutmix_module.box(size, lam, ((centre[0] + 0.5) / size[0], (centre[1] + 0.5) / size[1]))
    flipped = torch.arange(COUNT - 1, -1, -1)
    assert torch.equal(cutmix_module.paste(x, flipped, [cut]), wanted)
    share = cutmix_module.left_over(size, cut)
    targets = share * F.one_hot(y, CLASSES) + (1 - share) * F.one_hot(y[flipped], CLASSES)
    torch.testing.assert_close(targets, wanted_targets)


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_cutmix_shares_the_label_by_the_pixels(per):
    for step in range(20):
        batch = make_batch()
        before = {name: view.clone() for name, view in batch.views.items()}
        mixed = part("cutmix", per=per)[1].alter(batch, fake_run("cutmix", step=step))
        if mixed.mix is None:
            continue
        shares = mixed.mix[0][1]
        own = [(mixed.views[name] == before[name]).all(1) for name in before]
        assert torch.equal(own[0], own[1]), "the views have different boxes"
        for i in range(COUNT):
            kept = float(own[0][i].float().mean())
            partner = int((mixed.mix[1][0]["label"][i] == mixed.targets["label"]).nonzero()[0])
            assert kept == pytest.approx(float(shares[i]), abs=1e-6) or kept == 1.0, partner
        torch.testing.assert_close(shares + mixed.mix[1][1], torch.ones(COUNT))


def test_inputs_that_cannot_be_mixed_are_refused():
    words = Batch({"train": torch.ones(4, 7, dtype=torch.long)}, {"label": torch.zeros(4).long()}, ids=range(4))
    for name in ("mixup", "cutmix"):
        with pytest.raises(UsageError, match=f"'{name}' mixes inputs that are numbers"):
            part(name)[1].alter(words, fake_run(name))
    sound = Batch({"train": torch.ones(4, 1, 700)}, {"label": torch.zeros(4).long()}, ids=range(4))
    with pytest.raises(UsageError, match=r"'cutmix' cuts images .*\[4, 1, 700\]"):
        part("cutmix")[1].alter(sound, fake_run("cutmix"))
    assert part("mixup")[1].alter(sound, fake_run("mixup")).mix is not None
    with pytest.raises(UsageError, match="cannot mix the segmentation column 'map'"):
        part("cutmix")[1].prepare(None, fake_run(columns=(Column(name="map", kind="segmentation"),)))


def test_both_together_take_turns_and_never_mix_twice():
    mixup, cutmix = part("mixup", alpha=1.0)[1], part("cutmix", alpha=1.0)[1]
    turns = {"mixup": 0, "cutmix": 0}
    for step in range(200):
        run = fake_run("mixup", "cutmix", step=step)
        batch = make_batch()
        before = batch.views["train"].clone()
        mixed = cutmix.alter(mixup.alter(batch, run), run)
        assert len(mixed.mix) == 2
        pixels = mixed.views["train"][:, None] == before[None]
        cut = bool(pixels.all(2).any(1).all())  # every pixel is one of the originals' at its place
        turns["cutmix" if cut else "mixup"] += 1
    assert turns["mixup"] == pytest.approx(100, abs=25)
    assert turns["cutmix"] == pytest.approx(100, abs=25)


def test_a_batch_that_is_already_mixed_can_be_mixed_again():
    """As another plugin's mixing before ours would: labels follow what became of the pixels."""
    batch = make_batch()
    batch.targets = {"label": torch.tensor([0, 1, 2, 3, 2, 2, 1, 0])}
    pixels = F.one_hot(batch.targets["label"], CLASSES).float()
    batch.views = {"train": pixels[:, :, None, None].expand(-1, -1, 8, 6).clone()}  # the image says its label
    for step in range(3):
        batch = part("mixup", alpha=1.0, per="sample")[1].alter(batch, fake_run("mixup", step=step))
    targets = sum(w[:, None] * F.one_hot(t["label"], CLASSES) for t, w in batch.parts())
    torch.testing.assert_close(batch.views["train"].mean((2, 3)), targets)


# ------------------------------------------------------------------ label smoothing


@pytest.mark.parametrize("amount", [0.0, 0.1, 0.35])
def test_label_smoothing_is_torchs(amount):
    smoothing, model = part("label-smoothing", amount=amount)[1], make_model("classification")
    smoothing.prepare(None, fake_run())
    batch = smoothing.alter(make_batch(), fake_run())
    views = {"train": batch.views["train"].double()}
    logits = model(Batch(views, ids=range(COUNT))).outputs["label"]
    wanted = nn.CrossEntropyLoss(label_smoothing=amount, ignore_index=-1)(logits, labels_with_gaps("classification"))
    loss = model.supervised(Batch(views, batch.targets, ids=range(COUNT)))
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-6)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    soft = torch.rand(5, CLASSES, generator=torch.Generator().manual_seed(2)).softmax(1)
    torch.testing.assert_close(
        F.cross_entropy(logits[:5].float(), smooth(soft, CLASSES, amount)),
        F.cross_entropy(logits[:5].float(), soft, label_smoothing=amount),
    )


@pytest.mark.parametrize("mixer", ["mixup", "cutmix"])
def test_smoothing_and_mixing_commute(mixer):
    results = []
    for order in ((mixer, "label-smoothing"), ("label-smoothing", mixer)):
        batch = make_batch()
        for name in order:
            strategy = part(name)[1]
            strategy.prepare(None, fake_run())
            batch = strategy.alter(batch, fake_run(*order))
        model = make_model("classification")
        results.append(
            model.supervised(Batch({"t": batch.views["train"].double()}, batch.targets, None, batch.mix, range(COUNT)))
        )
    torch.testing.assert_close(results[0], results[1])


def test_only_classification_is_smoothed():
    columns = tuple(COLUMNS.values())
    targets = {column.name: labels_with_gaps(kind) for kind, column in COLUMNS.items()}
    smoothing = part("label-smoothing")[1]
    smoothing.prepare(None, fake_run(columns=columns))
    found = smoothing.alter(Batch({}, dict(targets), ids=range(COUNT)), fake_run()).targets
    assert found["tags"] is targets["tags"]
    assert found["size"] is targets["size"]
    assert found["label"].shape == (COUNT, CLASSES)
    assert found["label"].isnan().all(1).nonzero().flatten().tolist() == [2, 6]
    with pytest.raises(UsageError, match="no column of the data is"):
        part("label-smoothing")[1].prepare(None, fake_run(columns=columns[1:]))


# ------------------------------------------------------------------ in the loop


def phase_of(*names: str, epochs: int = 2) -> Phase:
    """A phase of strategies under their full names."""
    recipe = phase(*(part(name) for name in names), epochs=epochs).recipe
    components = tuple(Component(name=f"basics/{name}") for name in names)
    values = {f: getattr(recipe, f) for f in ("epochs", "rate", "decay", "warmup", "augment")}
    return Phase(PhaseRecipe(strategies=components, **values), compose([part(name) for name in names]))


def test_mixing_in_the_loop_resumes_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)

    def made():
        return make_run([phase_of("mixup", "cutmix", "label-smoothing")], accumulate=2)

    whole = made()
    assert whole.strategies == ("basics/mixup", "basics/cutmix", "basics/label-smoothing")
    rows = train_here(whole)
    with pytest.raises(Halt):
        train_here(made(), tmp_path, 1)
    resumed = made()
    assert train_here(resumed, tmp_path) == rows
    assert same_bits(resumed.model.state_dict(), whole.model.state_dict())
    plain = make_run([phase_of("full")], accumulate=2)
    assert train_here(plain)[0]["train_loss"] < rows[0]["train_loss"]
