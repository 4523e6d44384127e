"""The base class of trackers: what is told of a run while it goes on. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ENDS = ("finished", "stopped", "failed")
"""How a run may end: with a bundle; by a signal, a full disk and the like, so that it can be resumed; by an error."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of the run that begins.

    Attributes:
        folder: the run folder.
        recipe: the resolved recipe as plain values, as ``recipe.toml`` holds it.
        step: the first step that has not been logged; 0 in a new run. Of a resumed run all that was logged from this
            step on is void: it comes again.
        resumed: whether the run goes on after it was interrupted.
    """

    folder: Path
    recipe: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0
    resumed: bool = False


class Tracker:
    """Is told of a run. Its methods do nothing; an author overrides what is meant.

    All are called in the process that trains, between steps, so they should be quick: what takes long belongs in a
    thread of the tracker's own. One that raises is switched off with a line, and the run goes on without it. It must
    leave the model, the global generators of random numbers and the files of the run alone.
    """

    def begin(self, run: TrackedRun) -> None:
        """The run begins or goes on. Always the first call."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Numbers after so many optimiser steps of the whole run; they never go back, and one step may come twice
        with different names.

        Names are ``part/name``: ``train/loss``, ``train/rate``, ``train/gradient_norm``, ``val/accuracy`` of an epoch;
        ``step/loss`` and so on where single steps are logged (``train.log_every``); ``machine/samples_per_second``,
        ``machine/wait_share``; ``final/accuracy`` of the finished model. All are finite. What was logged should be
        safe when this returns: a run may be killed at any moment, and what is before :attr:`TrackedRun.step` is never
        logged again.
        """

    def figure(self, name: str, path: Path) -> None:
        """A figure (PNG) of the finished run: ``curves``, ``confusion``."""

    def end(self, status: str) -> None:
        """The run is over, one of :data:`ENDS`; not called where the process was killed. Always the last call."""
