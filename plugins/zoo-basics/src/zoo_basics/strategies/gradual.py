"""Gradual unfreezing: the head first, then block by block from the end."""

from __future__ import annotations

import math

from zoo_registry import Run, Strategy, StrategySpec, TransferModel, UsageError

from zoo_basics.options.tuning import GradualOptions
from zoo_basics.strategies.parts import counted_blocks, last_blocks


class Gradual(Strategy):
    """Epoch 0 trains the head; then one more block learns at a time, the last one first, BatchNorm statistics too.

    Howard and Ruder, Universal Language Model Fine-tuning for Text Classification, ACL 2018 (arXiv 1801.06146):
    learning everything at once risks that what was learned before is forgotten.

    Of ``n`` blocks ``min(n, floor(e / every))`` learn in epoch ``e`` (from 0). Without ``every`` the blocks are spread
    evenly, ``min(n, floor(e * n / span))`` with ``span = max(1, min(until * E, E - 1))`` of a phase of ``E`` epochs:
    all learn once ``until`` of the phase is over, in its last epoch at the latest, however short it is. Which blocks
    learn is a function of the epoch alone, so a resumed run goes on as it would have.

    A block without any matrix, as the final norm of a ViT, is not counted: it learns with the blocks around it.

    Args:
        options: ``every`` and ``until``.
    """

    def __init__(self, options: GradualOptions) -> None:
        self.every, self.until = options.every, options.until

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Freeze the whole backbone.

        Raises:
            UsageError: the phase ends before the first block would learn.
        """
        epochs = phase_epochs(run)
        if self.learning(epochs - 1, epochs, 1) == 0:
            length = f"over after {run.total_steps} of the {run.steps_per_epoch} steps of its first epoch"
            if self.every is not None and epochs > 1:
                length = f"{epochs} epochs long, with every={self.every}"
            raise UsageError(
                f"strategy 'gradual': the phase is {length}, so no block would ever learn",
                hint="make the phase longer (gradual:10), or take 'linear' or 'full'",
            )
        model.freeze()

    def begin_epoch(self, model: TransferModel, run: Run) -> None:
        """Thaw as many blocks as learn in this epoch, and freeze the others."""
        count = self.learning(run.epoch, phase_epochs(run), len(counted_blocks(model)))
        thawed = last_blocks(model, count, "gradual")
        model.freeze(name for name in model.blocks() if name not in thawed)
        model.unfreeze(thawed)

    def learning(self, epoch: int, epochs: int, blocks: int) -> int:
        """How many of ``blocks`` learn in ``epoch`` (from 0) of ``epochs``."""
        if self.every is not None:
            return min(blocks, epoch // self.every)
        span = max(1.0, min(self.until * epochs, epochs - 1.0))
        return min(blocks, math.floor(epoch * blocks / span + 1e-9))

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """From which epoch on (counted from 1) each block learns."""
        counted, epochs = counted_blocks(model), phase_epochs(run)
        first: dict[int, list[str]] = {}
        never = []
        for place, block in enumerate(reversed(counted), 1):
            start = next((e for e in range(epochs) if self.learning(e, epochs, len(counted)) >= place), None)
            first.setdefault(start, []).append(block) if start is not None else never.append(block)
        lines = [f"from epoch {epoch + 1}: {', '.join(blocks)}" for epoch, blocks in first.items()]
        return ("from epoch 1: the head alone", *lines, *([f"never: {', '.join(never)}"] if never else []))


def phase_epochs(run: Run) -> int:
    """Epochs that begin in the phase; the last one may be cut short."""
    return -(-run.total_steps // run.steps_per_epoch)


def build(spec: StrategySpec, options: GradualOptions) -> Gradual:
    """The strategy ``gradual``."""
    return Gradual(options)
