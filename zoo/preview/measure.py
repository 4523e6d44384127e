"""Timing a few real batches: loading, the step, a pass without gradients.

A batch of a few samples goes first. It says what the full batch would take in time and memory; where that is too much,
a smaller one is measured, and what depends on its size is told apart from what does not.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from zoo_registry import Batch

from zoo.data.dataset import Split
from zoo.evaluation.predictions import iterate_batches, join_features, pick_features
from zoo.preview.memory import KeptBytes, free_bytes, largest_output
from zoo.preview.throwaway import NotHereError, PreviewRun
from zoo.training.feed import Feed
from zoo.training.run import Phase
from zoo.training.step import Stepper
from zoo.training.streams import gather

SMALL = 4
"""Samples of the first batch; each that follows is up to :data:`GROWTH` times as large."""
GROWTH = 4
SECONDS = 2.0
"""What one step may take, as the batch before it says, and what all timed ones may take beyond the first."""
MEMORY_SHARE = 0.6
"""Of the free memory that a measured batch may take."""

Streams = dict[str, Batch]


@dataclass(frozen=True)
class LoadCost:
    """Seconds a sample for reading and transforming: the first time, and once it is kept decoded in memory.

    ``kept`` is the bytes of a decoded sample, 0 where it is not kept.
    """

    cold: float
    warm: float
    kept: float = 0.0

    def share_kept(self, split: Split) -> float:
        """Which share of the split stays in memory."""
        return min(1.0, split.cache_bytes / (self.kept * max(1, len(split)))) if self.kept else 0.0


@dataclass(frozen=True)
class PassCost:
    """A pass without gradients: loading, seconds a sample on the model, bytes a sample of its largest layer."""

    load: LoadCost
    compute: float
    bytes: float
    batch_size: int


@dataclass(frozen=True)
class StepCost:
    """A step of one micro-batch of n samples: ``fixed + n * per_sample`` seconds, bytes kept likewise.

    Attributes:
        batch_size: samples of the batches that were timed; batches: how many they were.
        device_peak: bytes that the device counted at that size, None where it cannot.
    """

    fixed: float
    per_sample: float
    bytes_fixed: float
    bytes_per_sample: float
    batch_size: int
    batches: int
    device_peak: int | None = None

    def seconds(self, samples: int) -> float:
        """Of a step of ``samples``."""
        return self.fixed + self.per_sample * samples

    def kept(self, samples: int) -> int:
        """Bytes that a micro-batch of ``samples`` keeps for its backward pass."""
        return round(self.bytes_fixed + self.bytes_per_sample * samples)


@dataclass(frozen=True)
class Trial:
    """One batch of ``size`` asked for, ``samples`` of which could be read: seconds, and bytes it needed."""

    size: int
    samples: int
    seconds: float
    bytes: int


def grow(run: PreviewRun, attempt: Callable[[int], Trial]) -> list[Trial]:
    """Try larger and larger batches, up to the recipe's, as long as time and memory allow; the last is the largest."""
    trials = [attempt(min(SMALL, run.options.batch_size, len(run.train)))]
    while (size := _next_size(run, trials[-1])) > trials[-1].size:
        trials.append(attempt(size))
    return trials


def _next_size(run: PreviewRun, last: Trial) -> int:
    size = min(run.options.batch_size, len(run.train), GROWTH * last.size)
    free = free_bytes(run.device)
    most = [SECONDS * last.samples / max(last.seconds, 1e-9)]
    if free is not None and last.bytes:
        most.append(MEMORY_SHARE * free * last.samples / last.bytes)
    while size > last.size and size > min(most):
        size //= 2
    return max(size, last.size)


def repeat(take: Callable[[int], float], batches: int) -> list[float]:
    """Seconds of up to ``batches`` takings, one at least, fewer where they would take too long."""
    times = [take(0)]
    while len(times) < batches and sum(times) < SECONDS:
        times.append(take(len(times)))
    return times


def time_pass(run: PreviewRun, batches: int) -> PassCost:
    """Time the evaluation view of ``val`` and the plain model on it.

    Raises:
        NotHereError: no sample that was read is readable.
    """
    split = run.data.split("val")

    def attempt(size: int) -> Trial:
        loaded = load_pass(run, split, size, 1)[1][0]
        with largest_output(run.model) as found:
            seconds = _pass(run, loaded)
        return Trial(size, len(loaded), seconds, found[0])

    last = grow(run, attempt)[-1]
    load, loaded = load_pass(run, split, last.size, batches)
    most = max(map(len, loaded))
    full = [batch for batch in loaded if len(batch) == most]
    times = repeat(lambda i: _pass(run, full[i % len(full)]), batches)
    return PassCost(load, statistics.median(times) / most, last.bytes / last.samples, last.size)


def load_pass(run: PreviewRun, split: Split, size: int, count: int) -> tuple[LoadCost, list[Any]]:
    """Batches of the evaluation view, spread over the split, and what loading them took: from disk, then again."""
    wanted = min(len(split), size * count)
    few = split.subset(i * len(split) // wanted for i in range(wanted))
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        loaded = list(iterate_batches(few, run.pipeline, batch_size=size))
        times.append((time.perf_counter() - begun) / wanted)
    for batch in loaded:
        run.bad.add(batch.bad)
    good = [batch for batch in loaded if batch.ids]
    if not good:
        raise NotHereError(f"none of {wanted} samples of {split.name} can be read")
    return LoadCost(times[0], min(times), kept_bytes(few)), good


def kept_bytes(split: Split) -> float:
    """Bytes of a decoded sample as the split keeps it, 0 where it keeps none."""
    return split.kept.mean_bytes


def _pass(run: PreviewRun, loaded: Any) -> float:
    run.model.eval()
    begun = time.perf_counter()
    with torch.no_grad():
        run.model.predict(run.pipeline.feed(loaded.views["eval"]))
    wait(run.device)
    run.model.train()
    return time.perf_counter() - begun


def load_train(run: PreviewRun, phase: Phase, size: int, count: int) -> tuple[LoadCost, list[Streams]]:
    """Micro-batches of the phase's own feed, all its streams, and what loading them took: first, and once more."""
    options = run.options
    run.options = dataclasses.replace(options, batch_size=size, accumulate=1)
    feed, times, kept = Feed(run, phase), [], 0.0
    try:
        feed.open()
        feed.weigh()
        for _ in range(2):
            begun = time.perf_counter()
            loaded = [step[0] for step in islice(feed.epoch(run.epoch), count)]
            times.append((time.perf_counter() - begun) / (size * len(loaded)))
            kept = kept or kept_bytes(run.train)
    finally:
        feed.close()
        run.options = options
    good = [streams for streams in loaded if len(streams["train"])]
    if not good:
        raise NotHereError(f"none of {size * len(loaded)} samples of train can be read")
    return LoadCost(times[0], min(times), kept), good


def load_features(run: PreviewRun, size: int, count: int) -> list[Streams]:
    """Batches of cached features: those of a few samples, over and over."""
    wanted = min(len(run.train), SMALL * 4, size * count)
    few = [i * len(run.train) // wanted for i in range(wanted)]
    _, loaded = load_pass(run, run.train.subset(few), min(SMALL, wanted), wanted)
    run.model.eval()
    with torch.no_grad():
        features = join_features([run.model.backbone(run.pipeline.feed(b.views["eval"])) for b in loaded])
    run.model.train()
    found = [few[i] for i in _chosen(loaded)]
    rows = torch.arange(size, device=run.device) % len(found)
    ids = [found[int(row)] for row in rows]
    batch = Batch(views={}, targets=gather(run, run.train, ids), ids=ids, features=pick_features(features, rows))
    return [{"train": batch}] * count


def _chosen(loaded: Sequence[Any]) -> list[int]:
    return [index for batch in loaded for index in batch.ids]


def time_steps(run: PreviewRun, stepper: Stepper, load: Callable[[int, int], list[Streams]], batches: int) -> StepCost:
    """Take a few steps of the phase as the loop does, and see what they cost.

    Args:
        run: prepared, at the epoch that is to be timed.
        stepper: the phase's own, so that the costs of every strategy count.
        load: ``(size, count) -> micro-batches``.
        batches: how many are timed, after one that warms up.
    """
    warm = False

    def attempt(size: int) -> Trial:
        nonlocal warm
        streams = load(size, 1)[0]
        tracker = KeptBytes(run.model)
        with tracker.watching():
            spent = _take(run, stepper, streams)
        if not warm:  # the very first step warms up more than the others do
            warm, spent = True, _take(run, stepper, streams)
        return Trial(size, len(streams["train"]), spent, tracker.peak)

    first, *more = grow(run, attempt)
    last = more[-1] if more else first
    loaded = load(last.size, batches)
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    times = repeat(lambda i: _take(run, stepper, loaded[i % len(loaded)]), batches)
    peak = torch.cuda.max_memory_allocated(run.device) if run.device.type == "cuda" else None
    fixed, slope = _line(first.samples, first.seconds, last.samples, statistics.median(times))
    bytes_fixed, bytes_slope = _line(first.samples, first.bytes, last.samples, last.bytes)
    return StepCost(fixed, slope, bytes_fixed, bytes_slope, last.samples, len(times), peak)


def _line(few: int, low: float, many: int, high: float) -> tuple[float, float]:
    """Constant and slope through two points, neither below 0; what a run needs lies at or beyond the second."""
    if many <= few or high <= low:
        return 0.0, high / many
    slope = min((high - low) / (many - few), high / many)
    return high - slope * many, slope


def _take(run: PreviewRun, stepper: Stepper, streams: Streams) -> float:
    wait(run.device)
    begun = time.perf_counter()
    stepper.take([streams])
    wait(run.device)
    run.step = min(run.step + 1, max(0, run.total_steps - 1))
    return time.perf_counter() - begun


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
