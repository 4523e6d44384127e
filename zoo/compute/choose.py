"""Choosing the compute path before a run: a few steps decide, and nothing of the run changes by them.

A run that is estimated below :data:`SHORT` seconds takes :data:`zoo.compute.path.PLAIN` without any timing of steps,
so short runs stay as fast and as repeatable as they are. A longer one spends at most :data:`SHARE` of its estimate.
What was chosen goes into the recipe; a resume and a rerun of that recipe never choose.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from zoo_registry import ImageInput, ZooError
from zoo_registry.strategy import overrides

from zoo.compute.candidates import candidates, may_vary, plainest
from zoo.compute.measure import ROUNDS, Bench, pass_seconds, untouched
from zoo.compute.path import ComputePath, open_choices, path_of
from zoo.recipe.recipe import AUTO, TrainOptions
from zoo.training.rehearsal import Rehearsed
from zoo.training.run import Phase, TrainingRun
from zoo.training.signals import InterruptedRunError

SHORT = 60.0
"""Seconds of a run below which nothing is measured."""
SHARE = 0.05
"""Of the run's estimated time that measuring may take."""
TOLERANCE = 1.05
"""A plainer path is taken unless another is faster by more than this factor."""
LEAST = 4
"""Samples of the measured batch, where a larger one would take more than its share."""
BACKWARD = 3.0
"""A training step against a pass without gradients: forward, and about twice that for backward."""
COMPILE_SECONDS = {"cpu": 80.0, "cuda": 45.0}
"""What the first compiled step takes at worst, by device; it is tried where :data:`SHARE` of the run is as much."""


@dataclass(frozen=True)
class Choice:
    """A chosen path.

    Attributes:
        path: the path.
        why: in words.
        rates: label of a path -> samples a second in its fastest step, for those measured.
        samples: of the measured batch.
        seconds: that choosing took.
    """

    path: ComputePath
    why: str
    rates: Mapping[str, float] = field(default_factory=dict)
    samples: int = 0
    seconds: float = 0.0

    def line(self) -> str:
        """For a person."""
        return f"compute: {self.path.label()} ({self.why})"


def choose_path(run: TrainingRun, build: Callable[[], list[Phase]], rehearsed: Sequence[Rehearsed]) -> Choice:
    """Choose for a run; its weights, statistics, random states and data order stay as they are.

    Args:
        run: before its first phase; what its options name is not chosen anew.
        build: builds the phases' strategies anew.
        rehearsed: what each phase will do.
    """
    plain, device = path_of(run.options, run.device), run.device
    if not open_choices(run.options):
        return Choice(plain, "as the recipe says")
    work = [0 if phase.cached else phase.steps for phase in rehearsed]
    if not any(work):
        return Choice(plain, "no phase runs the backbone step by step")
    if not may_vary(run.options, device):
        return Choice(plain, f"nothing is measured on {device.type}")
    begun = time.monotonic()
    try:
        with untouched():
            each = BACKWARD * pass_seconds(run)
            seconds = each * sum(work) * step_samples(run)
            if seconds < SHORT:
                return Choice(plain, "a short run, not measured")
            choice = _Choosing(run, build(), work.index(max(work)), seconds, each, begun).choose()
    except InterruptedRunError:
        raise
    except (ZooError, RuntimeError, MemoryError, ArithmeticError) as error:
        choice = Choice(plain, f"not measured: {(str(error).splitlines() or [type(error).__name__])[0]:.100}")
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return dataclasses.replace(choice, seconds=time.monotonic() - begun)


def outlook(options: TrainOptions, device: torch.device, seconds: float | None, *, steps: bool) -> str:
    """What a run would do, in words.

    Args:
        options: of training.
        device: the run's.
        seconds: of its steps that run the backbone, None where unknown.
        steps: whether there are any.
    """
    plain = path_of(options, device).label()
    if not open_choices(options):
        return plain
    if not steps or not may_vary(options, device):
        return f"{plain} (nothing to measure)"
    if seconds is None:
        return f"{plain} if the run takes less than {SHORT:.0f} s, otherwise chosen by measuring"
    if seconds < SHORT:
        return f"{plain} (a short run is not measured)"
    names = ", ".join(name.replace("_", " ") for name in open_choices(options))
    return f"{names}: chosen by measuring before the run, in at most {100 * SHARE:.0f} % of its time"


def step_samples(run: TrainingRun) -> int:
    """Samples of ``train`` in a full step."""
    return min(len(run.train), run.options.batch_size * run.options.accumulate)


class _Choosing:
    """The measuring of one run.

    Args:
        run: before its first phase.
        phases: built anew.
        index: the phase with the most steps that run the backbone.
        seconds: of the whole run's steps, estimated; each: of a sample in them.
        begun: when choosing began, on :func:`time.monotonic`'s clock.
    """

    def __init__(
        self, run: TrainingRun, phases: list[Phase], index: int, seconds: float, each: float, begun: float
    ) -> None:
        self.run, self.phase, self.seconds, self.begun = run, phases[index], seconds, begun
        self.total = seconds / max(each, 1e-9)
        self.paths = candidates(run.options, run.model.backbone, run.device)
        affordable = int(0.7 * SHARE * seconds / ((1 + ROUNDS) * len(self.paths) * max(each, 1e-9)))
        most = min(run.options.batch_size, len(run.train))
        self.bench = Bench(run, phases, index, min(most, max(LEAST, affordable)))

    def choose(self) -> Choice:
        """Memory format and precision together, then the optimiser, then the compiler."""
        options = self.run.options
        times = self.bench.compare(self.paths, self._deadline)
        if not times:
            raise ZooError("no step could be taken")
        best = plainest(times, TOLERANCE)
        base = self.paths[0] if self.paths[0] in times else best
        if options.fused == AUTO:
            best, times = self._fused(best, times)
        if options.compile is True:
            best, times = dataclasses.replace(best, compile=True), {**times}
            times[best] = times[dataclasses.replace(best, compile=False)]
        elif options.compile == AUTO and self._compile_pays(times[best] / times[base]):
            best, times = self._compiled(best, times)
        count = self.bench.samples
        rates = {path.label(): count / seconds for path, seconds in times.items()}
        against = f"{times[base] / times[best]:.2f}x {base.label()}, " if best != base else ""
        return Choice(best, f"{against}measured on {count} samples", rates, count)

    def _deadline(self, step: float) -> float:
        """When measuring should end, as the estimate and as real steps say how long the run takes."""
        return self.begun + SHARE * max(self.seconds, self.total * step / self.bench.samples)

    def _fused(
        self, best: ComputePath, times: Mapping[ComputePath, float]
    ) -> tuple[ComputePath, dict[ComputePath, float]]:
        """The optimiser as separate operations where one kernel costs a step more than the tolerance's tenth."""
        apart = dataclasses.replace(best, fused=False)
        lost = self.bench.optimiser_seconds(best) - self.bench.optimiser_seconds(apart) if best.fused else 0.0
        if lost <= (TOLERANCE - 1) / 10 * times[best]:
            return best, dict(times)
        return apart, {**times, apart: times[best] - lost}

    def _compile_pays(self, share: float) -> bool:
        """Whether compiling can be tried: the rest of the run must be worth it, and the phase's model stay one code.

        ``share`` is the time of the best path against the plain one's.
        """
        run, cost = self.run, COMPILE_SECONDS.get(self.run.device.type)
        if cost is None or not isinstance(run.input, ImageInput) or self.bench.samples < run.options.batch_size:
            return False
        still = not self.bench.side.model.taps and not any(overrides(s, "begin_epoch") for s in self.phase.strategies)
        return still and SHARE * self.seconds * share >= cost

    def _compiled(
        self, best: ComputePath, times: Mapping[ComputePath, float]
    ) -> tuple[ComputePath, dict[ComputePath, float]]:
        """The compiled path, if it repays twice what its first step took: a resume pays it again."""
        path = dataclasses.replace(best, compile=True)
        begun = time.monotonic()
        found = self.bench.compare([path], lambda step: begun)
        cost = time.monotonic() - begun
        if path not in found:
            return best, dict(times)
        gain = self.total * (times[best] - found[path]) / self.bench.samples
        taken = path if gain > 2 * cost and found[path] * TOLERANCE < times[best] else best
        return taken, {**times, path: found[path]}
