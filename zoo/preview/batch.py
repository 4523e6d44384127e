"""``--batch auto``: the largest batch that fits, found by real steps on a throw-away copy.

Batches double from :data:`LEAST` on. On CUDA a size fits if the step runs and leaves room for what a run keeps beside
it; between the last that fits and the first that does not, one more is tried. On a CPU, where too much memory ends in
a crash, the next size is first estimated from the last; and as larger batches gain nothing there once the processor is
busy, the search ends where they do. Either way an epoch keeps some steps: the rates are meant for many small ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from zoo_registry import DataError, Registry, RunStoppedError
from zoo_registry.strategy import overrides

from zoo.compute.allocator import pages_kept
from zoo.determinism import reproducible
from zoo.devices import resolve_device
from zoo.finetuning import build_phases, check_head_methods
from zoo.planning import Plan
from zoo.preview.measure import _take, load_train
from zoo.preview.memory import KeptBytes, free_bytes, module_bytes, tensor_bytes
from zoo.preview.throwaway import NotHereError, PreviewRun, ThrowAway
from zoo.training.limits import is_out_of_memory, release_memory
from zoo.training.preparing import Prepared, prepare_phase
from zoo.training.rehearsal import UnreadError
from zoo.training.run import Phase

LEAST, DEFAULT = 8, 64
MOST = {"cuda": 1024}
MOST_ELSEWHERE = 256
"""Samples beyond which nothing is tried."""
STEPS = 10
"""Steps that an epoch keeps."""
SHARE = {"cuda": 0.9}
SHARE_ELSEWHERE = 0.5
"""Of the free memory that a run may take."""
SECONDS = 20.0
"""That the search may take on a CPU; what is begun is ended."""
BUSY = 32
"""Samples from which on a CPU may have enough to do."""
GAIN = 1.05
"""By how much a doubled batch must be faster, a sample, on a CPU."""


@dataclass(frozen=True)
class Found:
    """The batch size, and why it is not larger, in words."""

    size: int
    why: str

    def line(self) -> str:
        """For a person."""
        return f"batch: {self.size} ({self.why})"


def choose_batch(
    registry: Registry, *, device: str, hub: str | None, say: Callable[[str], None]
) -> Callable[[Plan], int]:
    """What :func:`zoo.planning.make_plan` asks where the batch size is ``auto``; ``say`` is told what was found."""

    def choose(plan: Plan) -> int:
        found = find_batch(plan, registry, torch.device(resolve_device(device)), hub=hub)
        say(found.line())
        return found.size

    return choose


def find_batch(plan: Plan, registry: Registry, device: torch.device, *, hub: str | None = None) -> Found:
    """The largest batch for all phases of a plan; its weights, data and random states stay as they are.

    Raises:
        RunStoppedError: even the smallest batch does not fit.
        ZooError: the recipe is wrong.
    """
    most = ceiling(len(plan.data.split("train")), device)
    try:
        with pages_kept(), reproducible(plan.recipe.train.deterministic, plan.recipe.train.threads):
            made = ThrowAway.build(plan, registry, device, hub)
            phases = build_phases(plan.recipe, registry)
            check_head_methods(made.assembled, phases)
            found = [_Search(made.run(i, phases), phase, most).find() for i, phase in enumerate(phases)]
    except (NotHereError, DataError) as error:
        return Found(min(DEFAULT, most.size), f"not measured: {error.message}")
    finally:
        release_memory()
    tried = [one for one in found if one is not None]
    if not tried:
        return Found(min(DEFAULT, most.size), "no phase runs the backbone step by step, so memory is no question")
    return min(tried, key=lambda one: one.size)


def ceiling(samples: int, device: torch.device) -> Found:
    """The most that is tried for so many training samples, a power of two."""
    hard = MOST.get(device.type, MOST_ELSEWHERE)
    soft = 2 ** int(math.log2(max(1, samples // STEPS)))
    if soft < hard:
        return Found(max(LEAST, soft), f"so that an epoch over {samples} samples keeps its steps")
    return Found(hard, f"no more are tried on {device.type}")


class _Search:
    """The search in one phase."""

    def __init__(self, run: PreviewRun, phase: Phase, most: Found) -> None:
        self.run, self.phase, self.most = run, phase, most
        self.cuda = run.device.type == "cuda"
        free = free_bytes(run.device)
        self.room = None if free is None else SHARE.get(run.device.type, SHARE_ELSEWHERE) * free
        self.free = free
        self.begun = time.monotonic()
        self.kept = 0
        self.warm = False

    def find(self) -> Found | None:
        """The largest size and what stood against a larger one; None where the phase does not run the backbone."""
        try:
            self.prepared: Prepared = prepare_phase(self.run, self.phase, before={})
        except UnreadError as error:
            raise NotHereError(error.message) from error
        if not self.run.total_steps or self.prepared.feed.cached:
            return None
        self._last_epoch()
        size, speed = min(LEAST, self.most.size), 0.0
        seconds = self._seconds(size)
        if seconds is None:
            raise RunStoppedError(
                f"out of memory: not even {size} samples fit",
                hint="a smaller backbone, a smaller --image-size, or --batch-size 1",
            )
        while True:
            speed, bigger = size / seconds, 2 * size
            if bigger > self.most.size:
                return Found(size, self.most.why)
            why = self._refused(bigger, seconds)
            if why:
                return Found(size, why)
            tried = self._seconds(bigger)
            if tried is None:
                return Found(self._between(size), f"{bigger} do not fit into memory")
            if not self.cuda and size >= BUSY and bigger / tried < GAIN * speed:
                return Found(size, f"{bigger} at once are no faster")
            size, seconds = bigger, tried

    def _last_epoch(self) -> None:
        """Let the phase be as it is when most of it learns."""
        run = self.run
        count = -(-run.total_steps // run.steps_per_epoch)
        for epoch in range(count if any(overrides(s, "begin_epoch") for s in self.phase.strategies) else 1):
            run.epoch, run.step = epoch, epoch * run.steps_per_epoch
            for strategy in self.phase.strategies:
                strategy.begin_epoch(run.model, run.seen)  # type: ignore[arg-type]
        run.model.train()
        self.prepared.guard.begin_epoch(run.model, self.prepared.stepper.grouped)

    def _beside(self) -> int:
        """Bytes that a run keeps beside the backward pass: the weights it started from twice, the best ones, teachers;
        gradients and the optimiser's state too, where they are not measured with the step.
        """
        run = self.run
        trainable = tensor_bytes([p for p in run.model.parameters() if p.requires_grad])
        best = trainable if run.options.keep == "best" else 0
        if self.cuda:  # the plain model of the search is one of the two
            return tensor_bytes(run.base.values()) + best
        return module_bytes(run.model) + 2 * tensor_bytes(run.base.values()) + best + 3 * trainable + run.teacher_bytes

    def _refused(self, size: int, seconds: float) -> str | None:
        """Why a size is not even tried on a CPU, given what half of it took; None where it is."""
        if self.cuda:
            return None
        needed = self._beside() + 2 * self.kept
        if self.room is not None and self.free is not None and needed > self.room:
            share = SHARE.get(self.run.device.type, SHARE_ELSEWHERE)
            return f"{size} would take about {needed / 1e9:.1f} GB, and {share:.0%} of {self.free / 1e9:.1f} GB may be"
        spent = time.monotonic() - self.begun
        return f"trying {size} would take too long" if spent + 3 * seconds > SECONDS else None

    def _seconds(self, size: int) -> float | None:
        """Of a step of ``size`` samples; None where it does not fit."""
        try:
            seconds = self._step(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            seconds = None
        if seconds is None or (self.cuda and self._peak() > (self.room or math.inf)):
            for parameter in self.run.model.parameters():
                parameter.grad = None
            release_memory()
            return None
        return seconds

    def _step(self, size: int) -> float:
        run, stepper = self.run, self.prepared.stepper
        streams = load_train(run, self.phase, size, 1)[1][0]
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(run.device)
        if not self.warm:
            self.warm = True
            _take(run, stepper, streams)
        tracker = KeptBytes(run.model)
        with tracker.watching():
            _take(run, stepper, streams)
        self.kept = tracker.peak
        first = _take(run, stepper, streams)
        return first if self.cuda or first > 1 else min(first, _take(run, stepper, streams))

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.run.device) + self._beside()

    def _between(self, size: int) -> int:
        """Half as many again, where that fits on CUDA."""
        more = size + size // 2
        return more if self.cuda and self._seconds(more) is not None else size
