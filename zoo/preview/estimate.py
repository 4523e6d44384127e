"""From what a few batches cost to what a phase costs."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from zoo.data.dataset import Dataset
from zoo.preview.measure import LoadCost, PassCost, StepCost
from zoo.preview.memory import module_bytes, tensor_bytes
from zoo.preview.report import Estimate, Memory
from zoo.preview.throwaway import PreviewRun


@dataclass(frozen=True)
class Costs:
    """What was measured of a phase.

    Attributes:
        evaluation: a pass under the evaluation view.
        load: of the train view; None where features are cached.
        first, last: a step where as little, and where as much learns as ever in the phase; None in a phase of no steps.
        states: for each epoch, how far it is from the first state; the steps in between are interpolated.
        views: augmented views a sample whose features are computed; 0: the exact one.
        passes: samples of which strategies asked features in ``prepare``.
        fits: whether the phase ends with a pass over ``train``.
        trainable: bytes of all that learns.
        strategies: bytes of the strategies' own state.
        workers: processes that load.
    """

    evaluation: PassCost
    load: LoadCost | None
    first: StepCost | None
    last: StepCost | None
    states: tuple[int, ...]
    passes: int
    fits: bool
    trainable: int
    strategies: int
    workers: int
    views: int = 0


def estimate_phase(run: PreviewRun, costs: Costs, *, warm: bool) -> Estimate:
    """Time and memory of the phase that ``run`` stands in.

    Args:
        run: after the measuring.
        costs: what was measured.
        warm: whether an earlier phase has read the data already.
    """
    size, train, val = run.options.batch_size, run.train, run.data.split("val")
    epochs = run.total_steps / max(1, run.steps_per_epoch)
    validation = pass_seconds(costs, len(val), costs.evaluation.load.share_kept(val), warm=True)
    extraction = pass_seconds(costs, costs.passes, 0.0, warm=False)
    if costs.load is None and costs.first is not None:
        extraction += pass_seconds(costs, max(1, costs.views) * len(train) + len(val), 0.0, warm=warm)
        validation = len(val) * costs.first.per_sample
    if costs.fits:
        extraction += pass_seconds(costs, len(train), 0.0, warm=warm)
    training = 0.0
    for epoch in range(len(costs.states)):
        part = min(1.0, epochs - epoch)
        fresh = epoch == 0 and not warm
        training += part * epoch_seconds(run, costs, _factor(costs.states, epoch), fresh=fresh)
    evaluations = sum(
        epoch == len(costs.states) - 1 or (epoch + 1) % run.options.evaluate_every == 0
        for epoch in range(len(costs.states))
    )
    seconds = training + evaluations * validation
    return Estimate(
        seconds=seconds + extraction,
        seconds_per_epoch=seconds / epochs if epochs else 0.0,
        extraction_seconds=extraction,
        evaluation_seconds=validation,
        images_per_second=epochs * len(train) / training if training else None,
        batches=costs.first.batches if costs.first else 0,
        batch_size=costs.first.batch_size if costs.first else costs.evaluation.batch_size,
        memory=_memory(run, costs, min(size, len(train))),
    )


def _factor(states: tuple[int, ...], epoch: int) -> float:
    """0 where as little learns as in the first epoch, 1 where as much as in the last state."""
    return states[epoch] / max(states) if max(states, default=0) else 0.0


def epoch_seconds(run: PreviewRun, costs: Costs, factor: float, *, fresh: bool) -> float:
    """Of one pass over ``train``, without its evaluation."""
    assert costs.first is not None
    last = costs.last or costs.first
    count, size = len(run.train), min(run.options.batch_size, len(run.train))
    each = size * min(run.options.accumulate, -(-count // size))
    steps = count / each
    compute = steps * ((1 - factor) * costs.first.seconds(each) + factor * last.seconds(each))
    if costs.load is None:
        return compute
    share = 0.0 if fresh else costs.load.share_kept(run.train)
    load = count * (share * costs.load.warm + (1 - share) * costs.load.cold)
    return max(compute, load / costs.workers) if costs.workers else compute + load


def pass_seconds(costs: Costs, samples: int, share: float, *, warm: bool) -> float:
    """Of a pass without gradients over so many samples, ``share`` of which stays in memory."""
    cost = costs.evaluation
    share = share if warm else 0.0
    load = share * cost.load.warm + (1 - share) * cost.load.cold
    each = max(cost.compute, load / costs.workers) if costs.workers else cost.compute + load
    return samples * each


def _memory(run: PreviewRun, costs: Costs, size: int) -> Memory:
    """At the phase's most demanding epoch."""
    plain = tensor_bytes(run.base.values())
    weights = module_bytes(run.model)
    best = costs.trainable if run.options.keep == "best" and costs.first else 0
    references = module_bytes(run._reference) if run._reference is not None else 0
    copies = 2 * plain + best + references + run.teacher_bytes
    last = costs.last or costs.first
    passing = round(costs.evaluation.bytes * size)  # of the largest layer: its gradients, or itself without any
    measured = None
    if last is not None and last.device_peak is not None:  # the throw-away model stands for one of the two copies
        measured = round(last.device_peak + (size - last.batch_size) * last.bytes_per_sample) + plain + best
    return Memory(
        weights=weights,
        copies=copies,
        gradients=costs.trainable if last else 0,
        optimiser=2 * costs.trainable if last else 0,
        strategies=costs.strategies,
        activations=passing + (last.kept(size) if last else 0),
        images=_kept_images(run, costs) if run.device.type == "cpu" else 0,
        measured=measured,
    )


def _kept_images(run: PreviewRun, costs: Costs) -> int:
    """Decoded images that stay in memory, of ``train`` and ``val``."""
    each = max(costs.evaluation.load.kept, costs.load.kept if costs.load else 0.0)
    return round(sum(min(split.cache_bytes, each * len(split)) for split in (run.train, run.data.split("val"))))


def final_seconds(data: Dataset, evaluation: PassCost, workers: int) -> float:
    """Of the evaluation of ``val`` and ``test`` that ends a run."""
    load = evaluation.load.cold
    each = max(evaluation.compute, load / workers) if workers else evaluation.compute + load
    return each * sum(len(split) for name, split in data.splits.items() if name in ("val", "test"))


def device_name(device: torch.device) -> str:
    """``cpu (2 threads)``, ``cuda (NVIDIA ...)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type != "cpu":
        return str(device)
    threads = torch.get_num_threads()
    return f"cpu ({threads} thread{'s' if threads > 1 else ''})"


def busy_notes(device: torch.device) -> list[str]:
    """A line where others use the processors, so that times come out too long."""
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if device.type != "cpu" or load < 1.2 * cores:
        return []
    return [f"this machine is busy (load {load:.1f} on {cores} cores): with nothing beside it a run is faster"]
