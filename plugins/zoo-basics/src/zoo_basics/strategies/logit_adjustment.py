"""Logit adjustment: the model learns what speaks for a class beyond its being frequent."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from zoo_registry import Batch, Losses, Run, Strategy, StrategySpec, TransferModel, UsageError

from zoo_basics.options.losses import LogitAdjustmentOptions
from zoo_basics.strategies.plain_losses import shift_invariant


class LogitAdjustment(Strategy):
    """The head's loss of ``logits + tau log prior``, in training alone; predictions use the logits as they are.

    Menon et al., Long-tail learning via logit adjustment, ICLR 2021 (arXiv 2007.07314). ``prior`` are the shares of
    the classes in train; a class without a sample counts as one of one sample. With ``tau`` 1 the logits aim at the
    balanced error. Multilabel and regression columns, and those whose outputs are no log-shares, keep their loss.

    Sampling by class changes the shares that the model sees, so both together correct twice.

    Args:
        options: ``tau``.
    """

    def __init__(self, options: LogitAdjustmentOptions) -> None:
        self.tau = options.tau
        self.shifts: dict[str, Tensor] = {}

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Take the shares of the classes.

        Raises:
            UsageError: there is no column for it.
        """
        wanted = [c for c in run.columns if c.kind == "classification" and shift_invariant(model.head, c)]
        if not wanted:
            raise UsageError(
                "strategy 'logit-adjustment' is for softmax columns, and this head has none", hint="leave it out"
            )
        for column in wanted:
            counts = run.class_counts[column.name].double().clamp(min=1)
            self.shifts[column.name] = (self.tau * (counts / counts.sum()).log()).float()

    def objective(self, model: TransferModel, batches: Mapping[str, Batch], run: Run) -> Losses:
        """``adjusted``, a scalar: mixed, weighed and averaged as the supervised loss is."""
        batch = batches["train"]
        outputs = dict(model(batch).outputs)
        for name, shift in self.shifts.items():
            outputs[name] = outputs[name] + shift.to(outputs[name])
        return {"adjusted": torch.stack([model.loss(outputs, targets, w) for targets, w in batch.parts()]).sum()}

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """How far the logits are apart, and a warning where classes are balanced twice."""
        lines = [
            f"{name}: while training the rarest logit is {float(shift.max() - shift.min()):.2f} below the commonest"
            for name, shift in self.shifts.items()
        ]
        if "basics/class-balanced" in run.strategies:
            lines.append("class-balanced draws classes evenly already: together they correct twice")
        return tuple(lines)


def build(spec: StrategySpec, options: LogitAdjustmentOptions) -> LogitAdjustment:
    """The strategy ``logit-adjustment``."""
    return LogitAdjustment(options)
