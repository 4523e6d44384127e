"""The contract's loop: strategies with state, stopped anywhere and gone on with fresh objects, give the same bits."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import Halt, make_run, phase, same_bits, train_here
from torch import nn
from zoo_registry import ParameterGroup, Strategy, Stream

from zoo.training.checkpoint import clone_state


class Average(Strategy):
    """An average of all weights, with a count."""

    role = "averaging"

    def prepare(self, model, run):
        self.mean, self.count = clone_state(model.state_dict()), 0

    def after_step(self, model, run):
        self.count += 1
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.mean[name].lerp_(value, 1 / (1 + min(self.count, 5)))
            else:
                self.mean[name].copy_(value)

    def evaluation_weights(self, model):
        return self.mean

    def state_dict(self):
        return {"mean": self.mean, "count": self.count}

    def load_state_dict(self, state):
        self.mean, self.count = dict(state["mean"]), state["count"]


class Gradual(Strategy):
    """Thaws a block more each epoch, by a count of its own: ``begin_epoch`` is not idempotent."""

    def prepare(self, model, run):
        model.freeze()
        self.stage = 0

    def begin_epoch(self, model, run):
        names = list(model.blocks())
        if self.stage:
            model.unfreeze(names[-self.stage :])
        self.stage += 1

    def state_dict(self):
        return {"stage": self.stage}

    def load_state_dict(self, state):
        self.stage = state["stage"]


class Pull(Strategy):
    """Two terms: towards the start of the phase, and towards the base; one is a plain tensor of the reference."""

    role = "penalty"

    def penalty(self, model, batches, run):
        now, far = dict(model.named_parameters()), run.reference().state_dict()
        start = sum((p - run.start[n]).square().sum() for n, p in now.items() if n in run.start)
        base = sum((p - far[n]).square().sum() for n, p in now.items() if n in far)
        return {"start": 0.1 * start, "base": 0.01 * base}


class Mix(Strategy):
    """Mixup, by a keyed draw."""

    role = "batch"

    def alter(self, batch, run):
        draw = run.generator("mix")
        order = torch.randperm(len(batch), generator=draw)
        share = float(torch.rand((), generator=draw))
        others = {name: target[order] for name, target in batch.targets.items()}
        batch.views = {name: share * x + (1 - share) * x[order] for name, x in batch.views.items()}
        full = torch.full((len(batch),), share)
        batch.mix = [(batch.targets, full), (others, 1 - full)]
        batch.weights = torch.linspace(0.5, 1.5, len(batch))
        return batch


class Extra(Strategy):
    """An auxiliary module on the features, drawn at ``prepare``, with BatchNorm; a stateless generator is forbidden."""

    role = "penalty"

    def prepare(self, model, run):
        model.auxiliary["extra"] = nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Dropout(0.3))

    def penalty(self, model, batches, run):
        made = model.auxiliary["extra"](model(batches["train"]).features)
        return {"spread": (made.mean(0) ** 2).sum(), "size": 0.1 * made.square().mean()}


class Rare(Strategy):
    """Samples classes by weights that follow the training so far."""

    role = "sampling"

    def prepare(self, model, run):
        self.shift = torch.zeros(())

    def sample_weights(self, targets, run):
        return (targets["label"] + 1 + self.shift).float()

    def after_step(self, model, run):
        self.shift = self.shift + 0.5

    def state_dict(self):
        return {"shift": self.shift}

    def load_state_dict(self, state):
        self.shift = state["shift"]


class Sam(Strategy):
    """Sharpness-aware minimisation (arXiv 2010.01412): gradients are taken again at weights moved uphill."""

    role = "penalty"

    def before_step(self, model, run):
        learning = [p for p in model.parameters() if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in learning]).norm()
        climbs = [p.grad * (0.05 / norm) for p in learning]
        with torch.no_grad():
            for p, climb in zip(learning, climbs):
                p.add_(climb)
        run.backward()
        with torch.no_grad():
            for p, climb in zip(learning, climbs):
                p.sub_(climb)


class Rates(Strategy):
    """A group per block, the deeper the faster; and odd numbers among the state."""

    role = "rates"

    def parameter_groups(self, model, rate):
        groups = []
        for place, prefixes in enumerate([*model.blocks().values(), ("head",)]):
            inside = [p for n, p in model.named_parameters() if any(n.startswith(f"{x}.") for x in prefixes)]
            groups.append(ParameterGroup(params=inside, rate=rate * 0.5 ** (2 - place), decay=0.0))
        return groups

    def state_dict(self):
        return {"best": float("-inf"), "seen/it": {1: [1.5, None], 2: "x"}, "seen": {"it": torch.arange(3)}}

    def load_state_dict(self, state):
        assert state["best"] == float("-inf")
        assert state["seen/it"] == {1: [1.5, None], 2: "x"}
        assert state["seen"]["it"].tolist() == [0, 1, 2]


class Views(Strategy):
    """Consistency of two views of a further stream, and of a strong view of ``train``."""

    role = "penalty"
    streams = (Stream(name="test", views=("weak", "strong"), ratio=2), Stream(name="train", views=("strong",)))

    def penalty(self, model, batches, run):
        more, own = batches["test"], batches["train"]
        assert len(more) == 2 * len(own)
        assert list(own.views) == ["train", "strong"]
        with torch.no_grad():
            target = model(more, "weak").outputs["label"].softmax(1)
        strong = model(more, "strong").outputs["label"].log_softmax(1)
        return {"more": -(target * strong).sum(1).mean(), "own": model.loss(model(own, "strong").outputs, own.targets)}


class Probe(Strategy):
    """Asks for everything that may disturb training, and must not."""

    role = "penalty"

    def after_step(self, model, run):
        run.score(model, {n: v + 1 for n, v in model.state_dict().items() if v.is_floating_point()})
        torch.rand(3)


CASES = {
    "averaging": lambda: [phase(Average(), epochs=2), phase(Average(), epochs=1)],
    "gradual": lambda: [phase(Gradual(), epochs=3)],
    "penalties": lambda: [phase(Strategy(), epochs=1), phase(Pull(), epochs=2)],
    "mixup": lambda: [phase(Mix(), Average())],
    "auxiliary": lambda: [phase(Extra()), phase(Strategy(), epochs=1)],
    "sampling": lambda: [phase(Rare())],
    "sam": lambda: [phase(Sam())],
    "rates": lambda: [phase(Rates(), Gradual(), epochs=3)],
    "streams": lambda: [phase(Views())],
    "all": lambda: [phase(Gradual(), Rates(), Rare(), Mix(), Pull(), Extra(), Sam(), Average(), steps=7)],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch):
    """Nothing here depends on what a power failure leaves."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.mark.parametrize("case", CASES)
def test_stopped_anywhere_and_resumed_gives_the_same_bits(case, tmp_path):
    options = {"accumulate": 2} if case in ("all", "mixup") else {}
    whole = make_run(CASES[case](), **options)
    rows = train_here(whole)
    total = sum(row["steps"] for row in rows if row["event"] == "phase")
    for halt in (1, total // 2) if case != "all" else range(1, total):
        folder = tmp_path / str(halt)
        folder.mkdir()
        with pytest.raises(Halt):
            train_here(make_run(CASES[case](), **options), folder, halt)
        resumed = make_run(CASES[case](), **options)
        assert train_here(resumed, folder) == rows
        assert same_bits(resumed.model.state_dict(), whole.model.state_dict()), f"stopped after {halt} steps"


def test_what_strategies_ask_for_does_not_disturb_training():
    quiet, disturbed = make_run([phase(Strategy())]), make_run([phase(Probe())])
    assert train_here(quiet)[0]["val"] == train_here(disturbed)[0]["val"]
    assert same_bits(quiet.model.state_dict(), disturbed.model.state_dict())


def test_training_changes_weights_and_the_seed_matters():
    one, two = make_run([phase(Strategy())]), make_run([phase(Strategy())])
    two.seed = 4
    before = clone_state(one.model.state_dict())
    train_here(one)
    train_here(two)
    assert not same_bits(one.model.state_dict(), before)
    assert not same_bits(one.model.state_dict(), two.model.state_dict())


def test_recomputed_gradients_replace_those_there_were():
    """With the weights unmoved the second gradients equal the first, dropout and mixup included."""
    seen = []

    class Again(Strategy):
        role = "penalty"

        def before_step(self, model, run):
            first = {n: p.grad.clone() for n, p in model.named_parameters()}
            run.backward()
            seen.append(all(torch.equal(first[n], p.grad) for n, p in model.named_parameters()))

    train_here(make_run([phase(Again(), Mix())], backbone="plain", accumulate=2))
    assert seen
    assert all(seen)


def test_backward_outside_of_before_step_is_refused():
    class Late(Strategy):
        def after_step(self, model, run):
            run.backward()

    with pytest.raises(RuntimeError, match="before_step"):
        train_here(make_run([phase(Late())]))


def test_the_best_epoch_has_the_averaged_weights(tmp_path):
    """With averaging, validation and the weights that a phase ends with are those of the average, not the live ones."""
    kept = []

    class Watched(Average):
        def finish(self, model, run):
            kept.append((clone_state(model.state_dict()), self.mean))

    run = make_run([phase(Watched(), epochs=2)], keep="last")
    train_here(run)
    state, mean = kept[0]
    assert same_bits(state, mean)


def test_every_stream_gets_every_sample_before_one_comes_twice():
    ids = []

    class Reads(Strategy):
        role = "penalty"
        streams = (Stream(name="test", ratio=1),)

        def alter(self, batch, run):
            return batch

        def penalty(self, model, batches, run):
            ids.extend(batches["test"].ids)
            return {}

    run = make_run([phase(Reads(), epochs=3)])
    train_here(run)
    size = len(run.data.split("test"))
    for start in range(0, len(ids) - size + 1, size):
        assert sorted(ids[start : start + size]) == list(range(size))
    assert ids[:size] != ids[size : 2 * size]
