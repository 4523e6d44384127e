"""A phase before its first step: the plain model thawed, prepared by the strategies, grouped and watched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.training.feed import Feed, step_plan
from zoo.training.guard import Guard
from zoo.training.run import Phase, TrainingRun
from zoo.training.step import Stepper


@dataclass(frozen=True)
class Prepared:
    """What a phase is run with: where its batches come from, what watches it, and what takes its steps."""

    feed: Feed
    guard: Guard
    stepper: Stepper


def prepare_phase(run: TrainingRun, phase: Phase, before: Mapping[str, str] | None = None) -> Prepared:
    """Prepare ``run.model``, which is plain, for a phase; its length is known to the strategies.

    Args:
        run: its ``phase``, ``start``, ``step`` and ``epoch`` are those of the phase's start.
        phase: the phase.
        before: hashes of the tensors, where they are known or nobody asks for them; see :class:`Guard`.
    """
    model: Any = run.model
    model.thaw()
    model.train()
    run.steps_per_epoch = len(step_plan(len(run.train), run.options.batch_size, run.options.accumulate))
    run.total_steps = phase_steps(run, phase)
    run.seed_model("prepare")
    for strategy in phase.strategies:
        strategy.prepare(model, run.seen)
    model.taps = tuple(dict.fromkeys(tap for strategy in phase.strategies for tap in strategy.taps))
    model.to(run.device)  # what prepare added
    run.dress(model)
    model.train()
    feed = Feed(run, phase)
    guard = Guard(model, before)
    return Prepared(feed, guard, Stepper(run, phase, guard))


def phase_steps(run: TrainingRun, phase: Phase) -> int:
    """Optimiser steps of the phase."""
    recipe = phase.recipe
    if recipe.steps is not None:
        return recipe.steps
    return (recipe.epochs or 0) * len(step_plan(len(run.train), run.options.batch_size, run.options.accumulate))
