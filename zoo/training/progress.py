"""What training says while it runs. A ``Reporter`` is told; it never decides anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Reporter:
    """Says nothing; the base of those that do (:mod:`zoo.cli.progress`)."""

    def note(self, text: str) -> None:
        """Something a person should know."""

    def doing(self, text: str) -> None:
        """What goes on for a while between steps: ``evaluating``, ``writing the model``."""

    def begin_phase(self, index: int, count: int, label: str, total_steps: int) -> None:
        """A phase of ``total_steps`` steps starts (or goes on, after a resume)."""

    def step(self, step: int, epoch: int, loss: float, samples: int) -> None:
        """A step is done: its loss, and how many samples it took."""

    def step_row(self, row: Mapping[str, Any]) -> None:
        """A step was logged (``train.log_every``): the row that went to ``metrics.jsonl``."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch is done: the row that went to ``metrics.jsonl``, and as ``machine`` what it cost on this machine,
        see :meth:`zoo.training.watch.Watch.row`.
        """

    def end_phase(self, index: int, record: Mapping[str, Any]) -> None:
        """A phase is done."""
