"""Timing steps of the real model on real samples, on a copy that is thrown away."""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from zoo_registry import Batch, DataError, RunStoppedError

from zoo.compute.path import ComputePath
from zoo.evaluation.predictions import iterate_batches
from zoo.training.feed import Feed
from zoo.training.groups import make_optimiser
from zoo.training.preparing import prepare_phase
from zoo.training.rehearsal import RehearsalRun, side_run
from zoo.training.run import Phase, TrainingRun
from zoo.training.signals import InterruptedRunError

FEW = 8
"""Samples of the first look."""
ROUNDS = 3
"""Timed steps of a path, beside the one that warms it up."""


@contextmanager
def untouched() -> Iterator[None]:
    """Every global random state is afterwards what it was."""
    numbers, arrays, state = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(numbers)
        np.random.set_state(arrays)
        torch.random.set_rng_state(state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def pass_seconds(run: TrainingRun) -> float:
    """Seconds a sample of a pass without gradients over a few training samples, the less of two.

    On a CPU it is the process's own time where that is less: what else runs there must not make a short run look long.

    Raises:
        DataError: none of them can be read.
    """
    few = run.train.subset(range(min(FEW, len(run.train))))
    loaded = next((b for b in iterate_batches(few, run.pipeline, batch_size=FEW) if b.ids), None)
    if loaded is None:
        raise DataError(f"none of {len(few)} samples of train can be read")
    mode = run.model.training
    run.model.eval()
    try:
        with torch.no_grad():
            fed = run.pipeline.feed(loaded.views["eval"])
            return min(_seconds(lambda: run.model.backbone(fed), run.device) for _ in range(2)) / len(loaded)
    finally:
        run.model.train(mode)


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    _wait(device)
    wall, own = time.perf_counter(), time.process_time()
    work()
    _wait(device)
    wall, own = time.perf_counter() - wall, time.process_time() - own
    return min(wall, own) if device.type == "cpu" else wall


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Bench:
    """A phase prepared on a copy of the model, with one batch.

    Args:
        run: before its first phase; it stays as it is.
        phases: built anew, as strategies keep what they found.
        index: the phase whose steps are timed.
        size: samples of the batch.

    Raises:
        ZooError: no step of the phase can be taken here.
    """

    def __init__(self, run: TrainingRun, phases: list[Phase], index: int, size: int) -> None:
        self.side: RehearsalRun = side_run(run, phases, index)
        side, phase = self.side, phases[index]
        self.stepper = prepare_phase(side, phase, before={}).stepper
        for epoch in range(-(-side.total_steps // side.steps_per_epoch)):  # where as much learns as ever does
            side.epoch = epoch
            for strategy in phase.strategies:
                strategy.begin_epoch(side.model, side.seen)
        side.epoch = 0
        side.model.train()
        side.options = dataclasses.replace(side.options, batch_size=size, accumulate=1)
        self.batch = self._load(phase)
        self.samples = len(self.batch["train"])
        self._optimisers: dict[ComputePath, Any] = {}

    def _load(self, phase: Phase) -> dict[str, Batch]:
        feed = Feed(self.side, phase)
        try:
            feed.open()
            feed.weigh()
            batch = next(step[0] for step in feed.epoch(0))
        finally:
            feed.close()
        if not len(batch["train"]):
            raise DataError("none of the samples that were tried can be read")
        return batch

    def step(self, path: ComputePath) -> float:
        """Seconds of one step on this path."""
        self._take_path(path)
        _wait(self.side.device)
        begun = time.perf_counter()
        self.stepper.take([self.batch])
        _wait(self.side.device)
        return time.perf_counter() - begun

    def _take_path(self, path: ComputePath) -> None:
        side = self.side
        if side.path != path:
            side.path = path
            side.dress(side.model)
        if path not in self._optimisers:
            self._optimisers[path] = make_optimiser(self.stepper.groups, fused=path.fused)
        self.stepper.optimiser = self._optimisers[path]

    def compare(self, paths: Sequence[ComputePath], deadline: Callable[[float], float]) -> dict[ComputePath, float]:
        """The least seconds of a step on each path, in turns; those for which the time did not suffice are left out.

        The first path is always timed.

        Args:
            paths: the plainest first.
            deadline: seconds of a step on the first path -> when to end, on :func:`time.monotonic`'s clock.
        """
        found: dict[ComputePath, float] = {}
        latest: dict[ComputePath, float] = {}
        for number in range(1 + ROUNDS):
            for path in paths:
                first = latest.get(paths[0], 0.0)
                late = time.monotonic() + latest.get(path, first) > deadline(first)
                needed = path == paths[0] and number < 2
                if (number and path not in latest) or (late and not needed):
                    continue
                spent = self._try(path)
                if spent is None:
                    latest.pop(path, None)
                    found.pop(path, None)
                    continue
                latest[path] = spent
                if number:
                    found[path] = min(spent, found.get(path, spent))
        return {path: found[path] for path in paths if path in found}

    def _try(self, path: ComputePath) -> float | None:
        """None where the path does not work for this model (an operation without bfloat16), or loses the loss."""
        try:
            return self.step(path)
        except InterruptedRunError:
            raise
        except (RuntimeError, NotImplementedError, TypeError, RunStoppedError):
            self.side.model.zero_grad(set_to_none=True)
            return None

    def optimiser_seconds(self, path: ComputePath) -> float:
        """The least seconds of the optimiser alone; infinite where it does not work."""
        try:
            return self._optimiser_seconds(path)
        except RuntimeError:
            return math.inf
        finally:
            self.side.model.zero_grad(set_to_none=True)

    def _optimiser_seconds(self, path: ComputePath) -> float:
        self._take_path(path)
        optimiser = self.stepper.optimiser
        if optimiser is None:
            return 0.0
        learning = [p for group in optimiser.param_groups for p in group["params"] if p.requires_grad]
        for parameter in learning:
            parameter.grad = torch.zeros_like(parameter)
        times = []
        for _ in range(1 + ROUNDS):
            _wait(self.side.device)
            begun = time.perf_counter()
            optimiser.step()
            _wait(self.side.device)
            times.append(time.perf_counter() - begun)
        return min(times[1:])
