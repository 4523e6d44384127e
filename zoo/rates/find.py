"""The range test on the phases of a plan, each on a throw-away copy of the model that a run would start with."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from zoo_registry import Registry, RunStoppedError, UsageError

from zoo.compute.allocator import pages_kept
from zoo.determinism import reproducible
from zoo.devices import resolve_device
from zoo.finetuning import assemble_recipe, build_phases, check_head_methods
from zoo.planning import Plan
from zoo.rates.finding import LATER, PhaseRates, RateFinding
from zoo.rates.suggest import Divergence, ramp_rates, suggest
from zoo.teachers import Teachers
from zoo.training.feed import Feed
from zoo.training.preparing import phase_steps, prepare_phase
from zoo.training.progress import Reporter
from zoo.training.run import Phase, TrainingRun
from zoo.training.streams import check_streams

STEPS = 100
"""Of a ramp that is not over early."""
LOW, HIGH = 1e-6, 1.0
"""First and last rate of a ramp."""


def find_rates(
    plan: Plan,
    registry: Registry,
    *,
    phase: int | None = None,
    steps: int = STEPS,
    low: float = LOW,
    high: float = HIGH,
    device: str = "auto",
    hub: str | None = None,
    offline: bool = False,
    reporter: Reporter | None = None,
) -> RateFinding:
    """Try rates from ``low`` to ``high`` on each phase that takes gradient steps; nothing is written.

    A phase is prepared as a run would, with everything its strategies add, on a copy of the model with the weights
    that the run starts with. Its peak rate grows by equal factors from step to step, over batches drawn as in the
    run; the rates of parameter groups keep their ratios. Strategies see the first epoch throughout. The recipe's
    seed decides everything, so two searches agree. Compute options left to ``auto`` are float32.

    Args:
        plan: checked, with its data open.
        registry: where names are looked up.
        phase: number of the one phase to try, from 1.
        steps: of a ramp.
        low, high: first and last rate.
        device, hub, offline: as for a run.
        reporter: told of progress.

    Raises:
        UsageError: a phase that is asked for, or every phase, has no gradient steps; or a number out of range.
        RunStoppedError: out of memory.
    """
    if not 0 < low < high or steps < 10:
        raise UsageError(f"a ramp from {low:g} to {high:g} in {steps} steps", hint="0 < low < high, 10 steps at least")
    where, told, recipe = resolve_device(device), reporter or Reporter(), plan.recipe
    with pages_kept(), reproducible(recipe.train.deterministic, recipe.train.threads):
        phases = build_phases(recipe, registry)
        chosen = _chosen(phases, phase)
        for each in phases:
            check_streams(each.specs, plan.data)
        start = _Start(plan, registry, where, hub, offline)
        check_head_methods(start.assembled, phases)
        rates, found = ramp_rates(low, high, steps), []
        for index in chosen:
            told.begin_phase(index, len(phases), f"rates for {phases[index].recipe.label()}", steps)
            found.append(_ramp(start.run(index, phases, steps), phases[index].recipe.label(), rates, told))
    return RateFinding(recipe=recipe, phases=tuple(found), notes=_notes(found, phases), low=low, high=high, steps=steps)


def takes_steps(phase: Phase) -> bool:
    """Whether a rate means anything in the phase."""
    return phase.recipe.steps != 0 and all(spec.gradient for spec in phase.specs)


def _chosen(phases: list[Phase], number: int | None) -> list[int]:
    """Indices of the phases to try.

    Raises:
        UsageError: there is no such phase, or no rate in it.
    """
    count = len(phases)
    if number is not None and not 1 <= number <= count:
        raise UsageError(f"there is no phase {number}, the recipe has {count}", hint=f"--phase 1 to {count}")
    wanted = range(count) if number is None else [number - 1]
    found = [index for index in wanted if takes_steps(phases[index])]
    if not found:
        which = f"phase {number} ({phases[number - 1].recipe.label()}) has" if number else "the recipe has"
        raise UsageError(f"{which} no gradient steps, so there is no learning rate to find", hint="leave --find-lr out")
    return found


class _Start:
    """The model that a run would start with; every ramp gets a copy."""

    def __init__(self, plan: Plan, registry: Registry, device: torch.device, hub: str | None, offline: bool) -> None:
        self.plan, self.device = plan, device
        self.assembled = assemble_recipe(plan.recipe, plan.data, registry, device, hub=hub, offline=offline)
        prepare: Any = getattr(self.assembled.model.head, "prepare_targets", None)
        if prepare is not None:
            prepare(plan.data.split("train").targets)
        self.teachers = Teachers(registry, device, hub, offline, pinned=plan.recipe.teachers)

    def run(self, index: int, phases: list[Phase], steps: int) -> TrainingRun:
        """A run that stands before the phase, which is as long as the ramp at least."""
        plain, recipe = self.assembled.model, self.plan.recipe
        run = TrainingRun(
            model=copy.deepcopy(plain),
            phases=list(phases),
            data=self.plan.data,
            input=self.assembled.input,
            options=recipe.train,
            seed=recipe.seed,
            device=self.device,
            max_bad=recipe.data.bad_allowed,
            assembler=self.teachers,
            rebuild=lambda: copy.deepcopy(plain),
            phase=index,
        )
        run.start = run.base
        if phase_steps(run, phases[index]) < steps:
            longer = dataclasses.replace(phases[index].recipe, epochs=None, steps=steps)
            run.phases[index] = Phase(longer, phases[index].parts)
        return run


def _ramp(run: TrainingRun, label: str, rates: list[float], reporter: Reporter) -> PhaseRates:
    """Take the steps of a ramp."""
    phase, model = run.phases[run.phase], run.model
    peak = float(phase.recipe.rate or 0.0)
    if peak <= 0:
        raise UsageError(f"phase {run.phase + 1} ({label}) has the rate {peak:g}", hint="give it another rate")
    try:
        prepared = prepare_phase(run, phase, before={})
        stepper, feed = prepared.stepper, prepared.feed
        relative = tuple(sorted({group["rate"] / peak for group in stepper.groups}, reverse=True))
        stepper.factor = lambda: rates[run.step] / peak  # type: ignore[method-assign]
        for strategy in phase.strategies:
            strategy.begin_epoch(model, run.seen)
        model.train()
        prepared.guard.begin_epoch(model, stepper.grouped)
        try:
            feed.open()
            feed.weigh()
            losses, end = _take(run, stepper, itertools.islice(_endless(feed), len(rates)), len(rates), reporter)
        finally:
            feed.close()
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise RunStoppedError("out of memory", hint="a smaller --batch-size") from error
    used = rates[: len(losses)]
    found = suggest(used, losses, steps=len(rates))
    return PhaseRates(
        phase=run.phase, label=label, rate=peak, relative=relative, rates=tuple(used), losses=tuple(losses),
        found=found, end=end,
    )  # fmt: skip


def _take(run: TrainingRun, stepper: Any, batches: Any, steps: int, reporter: Reporter) -> tuple[list[float], str]:
    losses: list[float] = []
    diverges = Divergence(steps)
    for streams in batches:
        try:
            result = stepper.take(streams)
        except RunStoppedError:  # loss or gradient are not finite
            return losses, "not finite"
        losses.append(result.loss)
        run.step += 1
        reporter.step(run.step, 0, result.loss, result.samples)
        if diverges(result.loss):
            return losses, "diverged"
    return losses, "complete"


def _endless(feed: Feed) -> Iterator[Any]:
    """Pass after pass over ``train``."""
    for epoch in itertools.count():
        yield from feed.epoch(epoch)


def _notes(found: list[PhaseRates], phases: list[Phase]) -> tuple[str, ...]:
    notes = [f"phase {p.phase + 1} was {LATER}" for p in found if p.phase > 0]
    tried = {p.phase for p in found}
    notes += [
        f"phase {index + 1} ({phase.recipe.label()}) has no gradient steps"
        for index, phase in enumerate(phases)
        if index not in tried and not takes_steps(phase)
    ]
    for p in found:
        if p.suggestion is None:
            notes.append(f"phase {p.phase + 1}: the loss does not fall in this range, so there is no suggestion")
    return tuple(notes)
