"""Phases prepared on the side before anything is written: what a later phase cannot do is said at once."""

from __future__ import annotations

import copy
import dataclasses

from zoo_registry import DataError

from zoo.assembly.model import TransferModel
from zoo.evaluation.predictions import Predictions
from zoo.training.preparing import prepare_phase
from zoo.training.run import Phase, TrainingRun

SAMPLES = 32
"""Samples that are read where a run would read a whole split for features."""


class UnreadError(DataError):
    """None of the few samples could be read, which says little of the others."""


@dataclasses.dataclass(eq=False)
class RehearsalRun(TrainingRun):
    """A run whose strategies are asked in ``prepare``, and that reads little for them.

    Attributes:
        passes: samples of whole passes over a split that strategies asked for.
    """

    passes: int = 0

    def _open_bank(self) -> None:
        """None: features of a few samples are no use to others."""

    def _predict(self, model: TransferModel, split: str, *, features: bool = False) -> Predictions:
        """Of a few samples, spread evenly over the split.

        Raises:
            UnreadError: none of them can be read.
        """
        whole = self.data.split(split)
        self.passes += len(whole)
        count = min(SAMPLES, len(whole))
        chosen = [i * len(whole) // count for i in range(count)]
        full, self.data = (
            self.data,
            dataclasses.replace(self.data, splits={**self.data.splits, split: whole.subset(chosen)}),
        )
        try:
            found = super()._predict(model, split, features=features)
        finally:
            self.data = full
        if not found.indices:
            raise UnreadError(f"none of {count} samples of {split} can be read")
        found.indices = [chosen[i] for i in found.indices]
        return found


@dataclasses.dataclass(frozen=True)
class Rehearsed:
    """What a phase will do: how many optimiser steps, and whether on features that are computed once."""

    steps: int
    cached: bool


def rehearse(run: TrainingRun, phases: list[Phase]) -> list[Rehearsed]:
    """Prepare each phase on a copy of the run's model, which stays as it is.

    Args:
        run: before its first phase.
        phases: built anew, as strategies keep what they found.

    Returns:
        What each phase will do; of one that could not be prepared, as what it reads is unreadable here, no steps.

    Raises:
        ZooError: a strategy refuses the model, the data, or the phase's length.
    """
    found = []
    for index, phase in enumerate(phases):
        side = side_run(run, phases, index)
        try:
            prepared = prepare_phase(side, phase, before={})
            found.append(Rehearsed(side.total_steps, prepared.feed.cached))
        except UnreadError:
            found.append(Rehearsed(0, True))
    return found


def side_run(run: TrainingRun, phases: list[Phase], index: int) -> RehearsalRun:
    """A run on a copy of the run's model that stands before phase ``index``; samples are read in this process."""
    side = RehearsalRun(
        model=copy.deepcopy(run.model),
        phases=phases,
        data=run.data,
        input=run.input,
        options=dataclasses.replace(run.options, workers=0),
        seed=run.seed,
        device=run.device,
        assembler=run.assembler,
        rebuild=run.rebuild,
        base=run.base,
        start=run.base,
        phase=index,
    )
    side.bad.allowed = None
    return side
