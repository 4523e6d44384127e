"""Which epoch's weights a phase ends with, and when it ends early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.training.checkpoint import CheckpointFolder, clone_state


class Selection:
    """The best epoch so far of one phase, by the main validation metric; the earlier one of two equals.

    Args:
        phase: index of the phase.
        keep: ``best``: its weights are kept; ``last``: only counted, for ``patience``.
        patience: epochs without a better score that end the phase; 0 never.
        checkpoints: where the weights are written when a checkpoint needs them; None keeps them in memory alone.
    """

    def __init__(self, phase: int, keep: str, patience: int, checkpoints: CheckpointFolder | None) -> None:
        self.phase, self.keep, self.patience, self.checkpoints = phase, keep, patience, checkpoints
        self.score: float | None = None
        self.epoch = -1
        self._weights: dict[str, Tensor] | None = None
        self._written = -1

    def offer(self, score: float, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Take an epoch's score and weights (those that may move); they are copied if they are to be kept."""
        if math.isnan(score) or (self.score is not None and score <= self.score):
            return
        self.score, self.epoch = score, epoch
        if self.keep == "best":
            self._weights = clone_state(weights)

    def exhausted(self, epoch: int) -> bool:
        """Whether ``patience`` epochs brought nothing better."""
        return bool(self.patience) and self.epoch >= 0 and epoch - self.epoch >= self.patience

    def weights(self) -> dict[str, Tensor] | None:
        """The weights of the best epoch; None where none are kept."""
        if self.keep != "best" or self.epoch < 0:
            return None
        if self._weights is None and self.checkpoints is not None:
            self._weights = self.checkpoints.load_weights(self._name)
        return self._weights

    @property
    def _name(self) -> str:
        return f"best-{self.phase}-{self.epoch}"

    def unwritten(self) -> tuple[tuple[str, ...], dict[str, dict[str, Tensor]]]:
        """The names of the files that a resume needs, and the content of the one that is not yet on disk.

        The caller has it written with the next checkpoint.
        """
        if self.checkpoints is None or self.keep != "best" or self.epoch < 0:
            return (), {}
        new = self._written != self.epoch and self._weights is not None
        self._written = self.epoch
        return (self._name,), {self._name: self._weights} if new and self._weights is not None else {}

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"score": self.score, "epoch": self.epoch}

    def load(self, state: Mapping[str, Any]) -> None:
        """From the checkpoint, whose weights lie on disk."""
        self.score, self.epoch = state["score"], int(state["epoch"])
        self._written, self._weights = self.epoch, None
