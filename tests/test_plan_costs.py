"""Time and memory of a plan: what a few batches cost, and what follows for a phase."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import tiny_runs
import tiny_zoo
import torch
from plan_fakes import CALLS, REGISTRY, look
from torch import nn
from zoo_registry import Batch

from zoo import finetuning
from zoo.keys import generator
from zoo.planning import make_plan
from zoo.preview.estimate import Costs, estimate_phase
from zoo.preview.measure import LoadCost, PassCost, StepCost, Trial, grow, time_steps
from zoo.preview.memory import KeptBytes
from zoo.preview.preview import preview
from zoo.preview.throwaway import NotHereError, ThrowAway
from zoo.training.preparing import prepare_phase


def test_steps_are_those_of_the_loop():
    CALLS.clear()
    found = look("whole+counting:1", batches=2)
    assert found.phases[0].estimate is not None
    taken = CALLS.count("before_step")
    assert CALLS.count("after_step") == taken
    assert CALLS.count("alter") == 2 * taken, "every step computes its gradients again"
    assert found.phases[0].estimate.batches <= 2


def test_memory_is_counted_by_its_parts():
    plain, twice = look("whole:1").phases[0].estimate, look("whole+counting:1").phases[0].estimate
    frozen = look("freeze:1", train={"augment": "light"}).phases[0].estimate
    total = look("whole:1", batches=0).phases[0].parameters["total"]
    assert plain.memory.gradients == 4 * total
    assert plain.memory.optimiser == 8 * total
    assert plain.memory.weights > 4 * total  # BatchNorm's buffers
    assert frozen.memory.gradients == 4 * 27
    assert frozen.memory.activations < plain.memory.activations
    assert twice.memory.activations == plain.memory.activations, "a second backward pass keeps nothing of the first"
    parts = dataclasses.asdict(plain.memory)
    assert plain.memory.peak == sum(v for k, v in parts.items() if k != "measured")


def test_kept_bytes_are_what_a_backward_pass_needs():
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    x = torch.ones(4, 5)
    tracker = KeptBytes(model)
    with tracker.watching():
        loss = model(x).square().sum()
    expected = 4 * (4 * 5 + 4 * 7 + 4 * 3)  # the input, the output of ReLU (kept once), the squared output
    assert tracker.peak == expected
    loss.backward()
    del loss
    with tracker.watching():
        model(x[:1]).sum()
    assert tracker.peak == expected, "what was let go does not add up"


def made_run(**options):
    """A preview's run that stands before the phase ``whole``, 20 samples in train, 15 in val, batches of 8."""
    asked = tiny_runs.request(
        tiny_zoo.drawn_splits(20), "whole:3", "norm", *(f"train.{k}={v}" for k, v in options.items())
    )
    plan = make_plan(asked, REGISTRY)
    phases = finetuning.build_phases(plan.recipe, REGISTRY)
    run = ThrowAway.build(plan, REGISTRY, torch.device("cpu"), None).run(0, phases)
    prepared = prepare_phase(run, phases[0], before={})
    return run, prepared


def costs(**changes) -> Costs:
    """A sample loads in 1 s, passes in 2 s; a step takes 10 s and 3 s a sample."""
    step = StepCost(10.0, 3.0, 100.0, 5.0, 8, 2)
    plain = Costs(
        evaluation=PassCost(LoadCost(1.0, 1.0), 2.0, 50.0, 8), load=LoadCost(1.0, 1.0), first=step, last=None,
        states=(0, 0, 0), passes=0, fits=False, trainable=40, strategies=4, workers=0,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def test_an_epoch_costs_its_steps_its_loading_and_its_evaluation():
    run, _ = made_run()
    found = estimate_phase(run, costs(), warm=False)
    steps, samples, evaluation = 20 / 8, 20, 15 * (1 + 2)
    training = steps * 10 + samples * 3 + samples * 1
    assert found.seconds == pytest.approx(3 * (training + evaluation))
    assert found.seconds_per_epoch == pytest.approx(training + evaluation)
    assert found.evaluation_seconds == pytest.approx(evaluation)
    assert found.images_per_second == pytest.approx(20 / training)
    assert found.memory.activations == 100 + 5 * 8 + 50 * 8
    rare, _ = made_run(evaluate_every=2)  # after the second epoch and the last
    assert estimate_phase(rare, costs(), warm=False).seconds == pytest.approx(3 * training + 2 * evaluation)


def test_accumulating_takes_fewer_updates():
    run, _ = made_run(accumulate=2)
    found = estimate_phase(run, costs(), warm=False)
    assert 20 / found.images_per_second == pytest.approx(20 / 16 * 10 + 20 * 3 + 20)


def test_workers_load_beside_the_steps():
    run, _ = made_run()
    slow = costs(workers=2, load=LoadCost(100.0, 1.0))
    assert 20 / estimate_phase(run, slow, warm=False).images_per_second == pytest.approx(20 * 100 / 2)
    quick = costs(workers=2)
    assert 20 / estimate_phase(run, quick, warm=False).images_per_second == pytest.approx(20 / 8 * 10 + 20 * 3)


def test_decoded_images_are_read_once():
    run, _ = made_run()
    kept = costs(load=LoadCost(11.0, 1.0, kept=192.0))
    cold, warm = estimate_phase(run, kept, warm=False), estimate_phase(run, kept, warm=True)
    assert cold.seconds - warm.seconds == pytest.approx(20 * 10)
    assert cold.memory.images == 192 * (20 + 15)


def test_cached_features_cost_one_pass():
    run, _ = made_run()
    found = estimate_phase(run, costs(load=None), warm=True)
    assert found.extraction_seconds == pytest.approx((20 + 15) * (1 + 2))
    assert found.evaluation_seconds == pytest.approx(15 * 3)  # on features, at most a step's own
    assert found.seconds == pytest.approx(found.extraction_seconds + 3 * (20 / 8 * 10 + 20 * 3 + 15 * 3))


def test_what_unfreezes_later_costs_later():
    run, _ = made_run()
    late = costs(states=(0, 1, 2), last=StepCost(10.0, 7.0, 100.0, 50.0, 8, 2))
    found = estimate_phase(run, late, warm=False)
    training = sum(20 / 8 * 10 + 20 * per + 20 for per in (3, 5, 7))
    assert found.seconds == pytest.approx(training + 3 * 15 * 3)
    assert found.memory.activations == 100 + 50 * 8 + 50 * 8


@pytest.mark.parametrize(
    ("seconds", "size", "free", "largest"),
    [(1e-6, 1, 10**12, 64), (0.1, 1, 10**12, 16), (10.0, 1, 10**12, 4), (1e-6, 10**6, 60 * 10**6, 32)],
)
def test_batches_grow_while_time_and_memory_allow(monkeypatch, seconds: float, size: int, free: int, largest: int):
    run, _ = made_run(batch_size=64)
    monkeypatch.setattr("zoo.preview.measure.free_bytes", lambda device: free)
    monkeypatch.setattr(type(run.train), "__len__", lambda self: 1000)
    trials = grow(run, lambda n: Trial(n, n, seconds * n, size * n))
    sizes = [trial.size for trial in trials]
    assert sizes[0] == 4
    assert sizes[-1] == largest
    assert all(b <= 4 * a for a, b in itertools.pairwise(sizes))


def test_a_smaller_batch_stands_for_a_large_one(monkeypatch: pytest.MonkeyPatch):
    run, prepared = made_run()
    spent: list[float] = []

    def take(_run, _stepper, streams):
        spent.append(2.0 + 0.25 * len(streams["train"]))
        return spent[-1]

    monkeypatch.setattr("zoo.preview.measure._take", take)
    monkeypatch.setattr("zoo.preview.measure.SECONDS", 100.0)
    draw = generator("test")

    def load(size: int, count: int):
        ids = torch.randint(20, (size,), generator=draw).tolist()
        return [{"train": Batch(views={}, ids=ids)}] * count

    cost = time_steps(run, prepared.stepper, load, 2)
    assert (cost.batch_size, cost.batches) == (8, 2)
    assert (cost.fixed, cost.per_sample) == (pytest.approx(2.0), pytest.approx(0.25))
    assert cost.seconds(64) == pytest.approx(2.0 + 16.0)


def test_nothing_readable_is_named():
    run, prepared = made_run()

    def load(size: int, count: int):
        raise NotHereError("none of 4 samples of train can be read")

    with pytest.raises(NotHereError, match="none of 4"):
        time_steps(run, prepared.stepper, load, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_counts_its_own_memory():
    plan = make_plan(tiny_runs.request(None, "whole:1"), REGISTRY)
    found = preview(plan, REGISTRY, device="cuda", batches=1).phases[0].estimate
    assert found.memory.measured == found.memory.peak > found.memory.weights
