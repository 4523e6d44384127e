"""The loop's arithmetic against independent computations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from tiny_runs import make_run, phase, same_bits, train_here
from tiny_zoo import Drawn, drawn_splits
from torch import nn
from zoo_registry import Batch, Column, ParameterGroup, Strategy, UsageError, ZooError
from zoo_registry.strategy import Stream

from zoo.data import open_data
from zoo.training.checkpoint import clone_state
from zoo.training.feed import Feed, step_plan
from zoo.training.schedule import rate_factor


class Notes(Strategy):
    """Writes down what happens."""

    def __init__(self) -> None:
        self.batches, self.epochs, self.gradients, self.moved = [], [], [], []

    def begin_epoch(self, model, run):
        self.epochs.append((run.epoch, run.step))
        self.batches.append([])

    def alter(self, batch, run):
        self.batches[-1].append(list(batch.ids))
        return batch

    def before_step(self, model, run):
        self.gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    def after_step(self, model, run):
        self.moved.append(clone_state(model.state_dict()))


def test_an_epoch_is_one_pass_in_another_order_each_time():
    notes = Notes()
    run = make_run([phase(notes, epochs=3)])
    rows = train_here(run)
    assert notes.epochs == [(0, 0), (1, 4), (2, 8)]
    flat = [[i for batch in epoch for i in batch] for epoch in notes.batches]
    assert all(sorted(order) == list(range(26)) for order in flat)
    assert len({tuple(order) for order in flat}) == 3
    assert [row["samples"] for row in rows if row["event"] == "epoch"] == [26, 26, 26]


def test_steps_limit_a_phase_within_an_epoch():
    notes = Notes()
    rows = train_here(make_run([phase(notes, steps=7)]))
    assert len(notes.moved) == 7
    assert [len(epoch) for epoch in notes.batches] == [4, 3]
    assert [row["step"] for row in rows if row["event"] == "epoch"] == [4, 7]
    assert rows[1]["val"] is not None


def test_a_last_batch_of_one_joins_the_one_before():
    assert [[len(s) for s in step] for step in step_plan(17, 8, 1)] == [[8], [9]]
    assert [[len(s) for s in step] for step in step_plan(26, 8, 2)] == [[8, 8], [8, 2]]
    assert [[len(s) for s in step] for step in step_plan(1, 8, 1)] == [[1]]
    assert [[len(s) for s in step] for step in step_plan(3, 1, 1)] == [[1], [1], [1]]
    assert [[len(s) for s in step] for step in step_plan(9, 8, 4)] == [[9]]
    notes = Notes()
    train_here(make_run([phase(notes, epochs=1)], data=drawn_splits(17)))
    assert [len(batch) for batch in notes.batches[0]] == [8, 9]


@pytest.mark.parametrize("count", [24, 26, 27])
def test_accumulation_equals_the_larger_batch(count):
    """Also with a ragged last step; no BatchNorm, whose statistics see the micro-batch."""
    one, two = Notes(), Notes()
    data = drawn_splits(count)
    options = {"backbone": "plain", "clip": 0.0}
    train_here(make_run([phase(one, steps=4, augment="none")], data, batch_size=12, **options))
    train_here(make_run([phase(two, steps=4, augment="none")], data, batch_size=4, accumulate=3, **options))
    sizes = [sum(map(len, one.batches[0]))], [sum(map(len, two.batches[0]))]
    assert sizes[0] == sizes[1]
    for large, small in zip(one.gradients[: len(one.batches[0])], two.gradients):
        for name in large:
            torch.testing.assert_close(small[name], large[name], rtol=1e-4, atol=1e-6)


def test_mixed_and_weighted_losses():
    run = make_run([phase(Strategy())])
    batch = Batch(views={}, ids=[0, 1, 2], features=torch.randn(3, 8, generator=torch.Generator().manual_seed(1)))
    first, second = torch.tensor([0, 1, -1]), torch.tensor([2, -1, -1])
    share, weights = torch.tensor([0.25, 0.5, 1.0]), torch.tensor([1.0, 2.0, 3.0])
    batch.mix = [({"label": first}, share), ({"label": second}, 1 - share)]
    batch.weights, batch.targets = weights, {"label": first}
    logits = run.model.head(batch.features)["label"]
    each = -logits.log_softmax(1)
    by_hand = (each[0, 0] * 0.25 + each[1, 1] * 0.5 * 2) / 2 + each[0, 2] * 0.75 / 1
    torch.testing.assert_close(run.model.supervised(batch), by_hand)


def test_adamw_is_torchs_with_no_decay_on_vectors():
    """A whole run without augmentation against a loop written out in plain torch."""
    notes = Notes()
    run = make_run(
        [phase(notes, epochs=2, augment="none", rate=0.02, decay=0.1, warmup=0.25)], backbone="plain", clip=0.5
    )
    train_here(run)
    model = make_run([phase(Strategy())], backbone="plain").model
    named = list(model.named_parameters())
    optimiser = torch.optim.AdamW([
        {"params": [p for _, p in named if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for _, p in named if p.ndim == 1], "weight_decay": 0.0},
    ])  # fmt: skip
    train = run.data.split("train")
    for step, ids in enumerate(batch for epoch in notes.batches for batch in epoch):
        images = torch.stack([torch.from_numpy(train.read(i)).permute(2, 0, 1) for i in ids]).float()
        logits = model.predict((images / 255 - 0.5) / 0.5)["label"]
        loss = nn.functional.cross_entropy(logits, train.targets["label"][ids])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        factor = (step + 1) / 3 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / 6))
        for group in optimiser.param_groups:
            group["lr"] = 0.02 * factor
        optimiser.step()
        for name, value in model.state_dict().items():
            torch.testing.assert_close(notes.moved[step][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedule_shapes(schedule):
    factors = [rate_factor(step, 20, warmup=0.2, schedule=schedule) for step in range(20)]
    assert factors[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert factors[4] == 1
    rest = factors[4:]
    assert all(0 < later <= earlier for earlier, later in itertools.pairwise(rest))
    ends = {"cosine": 0.5 * (1 + math.cos(math.pi * 15 / 16)), "linear": 1 / 16, "constant": 1.0}
    assert factors[-1] == pytest.approx(ends[schedule])
    assert rate_factor(0, 1, warmup=0.0, schedule=schedule) == 1


def test_sampling_weights_are_followed():
    class Weighted(Notes):
        role = "sampling"

        def sample_weights(self, targets, run):
            return torch.tensor([0.0, 1.0, 3.0])[targets["label"]]

    notes = Weighted()
    run = make_run([phase(notes, epochs=40)], backbone="plain", evaluate_every=40, checkpoint_every=0.0)
    train_here(run)
    drawn = np.array([i for epoch in notes.batches for batch in epoch for i in batch])
    labels = run.targets["label"].numpy()[drawn]
    counts = np.bincount(labels, minlength=3)
    support = np.bincount(run.targets["label"].numpy())
    expected = support[2] * 3 / (support[1] + support[2] * 3)
    assert counts[0] == 0
    assert counts[2] / counts.sum() == pytest.approx(expected, abs=0.05)
    assert len(drawn) == 40 * 26


@pytest.mark.parametrize("weights", [torch.zeros(26), torch.ones(25), -torch.ones(26), torch.full((26,), math.nan)])
def test_unusable_sampling_weights_are_refused(weights):
    class Odd(Strategy):
        def sample_weights(self, targets, run):
            return weights

    with pytest.raises(ZooError, match="sample weights"):
        train_here(make_run([phase(Odd())]))


def test_patience_ends_a_phase_and_the_best_epoch_is_kept(tmp_path):
    """Scores are made up: the third epoch is the best, two more bring nothing."""
    states = []

    class Watch(Strategy):
        def after_step(self, model, run):
            if run.step % 4 == 3:
                states.append(clone_state(model.state_dict()))

    run = make_run([phase(Watch(), epochs=9)], patience=2)
    scores = iter([0.1, 0.2, 0.9, 0.9, 0.3, 0.95])
    run.evaluate = lambda *_: {"accuracy": next(scores)}
    rows = train_here(run)
    assert [row["epoch"] for row in rows if row["event"] == "epoch"] == [0, 1, 2, 3, 4]
    assert rows[-1]["best_epoch"] == 2
    assert same_bits(run.model.state_dict(), states[2])


def test_patience_counts_where_the_last_weights_are_kept_too():
    run = make_run([phase(Strategy(), epochs=9)], patience=1, keep="last")
    scores = iter([0.5, 0.4, 0.9])
    run.evaluate = lambda *_: {"accuracy": next(scores)}
    rows = train_here(run)
    assert len([row for row in rows if row["event"] == "epoch"]) == 2
    assert "best_epoch" not in rows[-1]


def test_features_are_cached_where_that_changes_nothing():
    """A frozen backbone without augmentation: batches carry features, and the head learns what it learns without."""

    class Freeze(Notes):
        touches = frozenset()

        def prepare(self, model, run):
            model.freeze()

        def alter(self, batch, run):
            self.batches[-1].append(batch)
            return batch

    class Declared(Freeze):
        touches = frozenset({"backbone"})

    cached, plain = Freeze(), Declared()
    one = make_run([phase(cached, augment="none")])
    two = make_run([phase(plain, augment="none")])
    train_here(one)
    train_here(two)
    assert all(batch.features is not None and not batch.views for batch in cached.batches[0])
    assert all(batch.features is None for batch in plain.batches[0])
    for name, value in two.model.state_dict().items():
        torch.testing.assert_close(one.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert not Feed(make_run([]), phase(Freeze(), augment="light")).cached


def test_recalibration_gives_the_statistics_of_the_data():
    run = make_run([phase(Strategy())], batch_size=26)
    norm = run.model.backbone.stem[1]
    norm.running_mean.fill_(7)
    run.recalibrate(run.model)
    train = run.data.split("train")
    images = torch.stack([torch.from_numpy(train.read(i)).permute(2, 0, 1) for i in range(26)]).float()
    maps = run.model.backbone.stem[0]((images / 255 - 0.5) / 0.5)
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var, maps.var((0, 2, 3)), rtol=1e-3, atol=1e-4)
    run.model.freeze(["stem"])
    norm.running_mean.fill_(7)
    run.recalibrate(run.model)
    assert bool((norm.running_mean == 7).all())


def test_two_columns_with_missing_labels():
    """Per column the mean over the samples that have a label, summed."""
    columns = (Column(name="a", classes=("x", "y")), Column(name="b", classes=("p", "q", "r")))
    run = make_run([phase(Strategy())])
    from tiny_zoo import TinyHead

    from zoo.assembly.model import TransferModel

    model = TransferModel(run.model.backbone, TinyHead(8, columns), columns)
    outputs = model.head(torch.randn(4, 8, generator=torch.Generator().manual_seed(2)))
    targets = {"a": torch.tensor([0, -1, 1, -1]), "b": torch.tensor([-1, -1, -1, -1])}
    expected = nn.functional.cross_entropy(outputs["a"][[0, 2]], torch.tensor([0, 1]))
    loss = model.loss(outputs, targets)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.head.parameters())


def test_a_stream_that_the_data_lacks_is_refused_before_anything_is_trained():
    class Wants(Strategy):
        streams = (Stream(name="unlabelled"),)

    notes = Notes()
    with pytest.raises(UsageError, match="'unlabelled'"):
        train_here(make_run([phase(notes), phase(Wants())]))
    assert notes.epochs == []


def test_a_parameter_in_two_groups_is_refused():
    class Twice(Strategy):
        def parameter_groups(self, model, rate):
            group = ParameterGroup(params=list(model.parameters()), rate=rate, decay=0.0)
            return [group, group]

    with pytest.raises(ZooError, match="two parameter groups"):
        train_here(make_run([phase(Twice())]))


def test_one_training_sample_and_batches_of_one_work():
    data = open_data({"train": Drawn(3), "val": Drawn(6)})
    rows = train_here(make_run([phase(Strategy(), epochs=1)], data, backbone="plain", batch_size=1))
    assert rows[0]["step"] == 3


def test_a_pass_is_computed_once_a_step_and_not_remembered_longer():
    """Supervised loss and penalty share one forward; with two micro-batches there are two, also when recomputed."""
    calls, seen = [], []

    class Shares(Strategy):
        role = "penalty"

        def prepare(self, model, run):
            model.backbone.register_forward_pre_hook(lambda *_: calls.append(model.training) or None)

        def penalty(self, model, batches, run):
            batch = batches["train"]
            seen.append((tuple(batch.ids), batch.weights, batch.mix))
            one, two = model(batch), model(batch, "train")
            assert one is two
            with torch.no_grad():
                assert model(batch) is not one
            batch.weights, batch.mix = torch.zeros(len(batch)), []
            batch.targets["label"] = batch.targets["label"] * 0
            return {"nothing": one.features.sum() * 0}

        def before_step(self, model, run):
            run.backward()

    train_here(make_run([phase(Shares(), steps=2)], accumulate=2))
    assert calls.count(True) == 2 * 2 * 2 * 2  # steps, micro-batches, backward twice, with gradient and without
    assert all(weights is None and mix is None for _, weights, mix in seen)
    assert seen[0][0] == seen[2][0] != seen[1][0] == seen[3][0]


def test_zero_step_phases_run_finish_alone():
    class Fits(Notes):
        def finish(self, model, run):
            features, targets = run.extract(model)
            self.moved.append((features.shape, targets["label"].tolist()))

    notes = Fits()
    run = make_run([phase(notes, steps=0), phase(Strategy(), epochs=1)])
    before = clone_state(run.model.state_dict())
    rows = train_here(run)
    assert notes.moved == [((26, 8), run.targets["label"].tolist())]
    assert notes.epochs == []
    assert (rows[0]["steps"], rows[0]["frozen_tensors"]) == (0, len(before))
