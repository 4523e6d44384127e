"""Focal loss: what is already right counts less."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from zoo_registry import Batch, Column, Losses, Run, Strategy, StrategySpec, TransferModel, UsageError

from zoo_basics.heads.losses import at_least_float32
from zoo_basics.options.losses import FocalOptions
from zoo_basics.strategies.label_smoothing import as_shares
from zoo_basics.strategies.plain_losses import plain_columns


class Focal(Strategy):
    """``-alpha_t (1 - p_t)^gamma log p_t`` in place of ``-log p_t``, ``p_t`` the probability given to the truth.

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017 (arXiv 1708.02002). For softmax columns ``p_t`` is that
    of the label's class; for multilabel columns each class is a question of its own. Soft labels count linearly, by
    ``-sum_c q_c alpha_c (1 - p_c)^gamma log p_c``. Columns whose loss the head shapes itself (regression, asymmetric,
    ordinal, learned weights) keep that loss.

    ``alpha`` as a number is the weight of a label that applies, ``1 - alpha`` that of one that does not (multilabel).
    ``balanced`` weighs classes by their inverse size in train: ``N / (C n_c)`` for softmax columns; for multilabel
    ones each class's ``alpha`` is the share of samples to which it does not apply.

    Args:
        options: ``gamma``, ``alpha``.
    """

    def __init__(self, options: FocalOptions) -> None:
        self.gamma, self.alpha = options.gamma, options.alpha
        self.plain: dict[str, str] = {}
        self._weights: dict[str, tuple[Tensor, Tensor]] = {}

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Find the columns and weigh their classes.

        Raises:
            UsageError: there is no column for it, or ``alpha`` would do nothing.
        """
        self.plain = plain_columns(model.head, run.columns)
        if not self.plain:
            raise UsageError(
                "strategy 'focal' is for softmax or sigmoid losses, and this head has another for every column",
                hint="leave it out, or take another head",
            )
        if isinstance(self.alpha, float) and "sigmoid" not in self.plain.values():
            raise UsageError(
                f"strategy 'focal': alpha={self.alpha:g} weighs labels that apply against those that do not, and no "
                "column is multilabel",
                hint="alpha=balanced weighs the classes of softmax columns",
            )
        self._weights = {c.name: self._class_weights(c, run) for c in run.columns if c.name in self.plain}

    def _class_weights(self, column: Column, run: Run) -> tuple[Tensor, Tensor]:
        """Weights [C] of the classes where they apply, and where they do not (multilabel)."""
        ones = torch.ones(column.size)
        if isinstance(self.alpha, float) and self.plain[column.name] == "sigmoid":
            return ones * self.alpha, ones * (1 - self.alpha)
        if self.alpha != "balanced":
            return ones, ones
        counts = run.class_counts[column.name].float()
        if self.plain[column.name] == "softmax":
            present = counts > 0
            weights = counts.sum() / (present.sum() * counts.clamp(min=1))
            return torch.where(present, weights, 1.0), ones
        known = (~run.targets[column.name].isnan()).sum(0).clamp(min=1)
        share = (counts / known).cpu()
        return 1 - share, share

    def objective(self, model: TransferModel, batches: Mapping[str, Batch], run: Run) -> Losses:
        """``focal``, a scalar: mixed, weighed and averaged as the supervised loss is."""
        batch = batches["train"]
        outputs = model(batch).outputs
        parts = [model.average(self._losses(model, outputs, targets), w) for targets, w in batch.parts()]
        return {"focal": torch.stack(parts).sum()}

    def _losses(
        self, model: TransferModel, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """``{column: [B]}``, NaN where the label is missing."""
        losses: dict[str, Tensor] = {}
        rest = {name: values for name, values in outputs.items() if name not in self.plain}
        if rest:
            losses |= model.head.loss(rest, {name: targets[name] for name in rest})  # type: ignore[operator]
        for name, kind in self.plain.items():
            function = softmax_focal if kind == "softmax" else sigmoid_focal
            losses[name] = function(outputs[name], targets[name], self.gamma, *self._weights[name])
        return losses

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """The columns, and those that keep their loss."""
        others = [column.name for column in run.columns if column.name not in self.plain]
        lines = [f"focal loss, gamma {self.gamma:g}, on {', '.join(self.plain)}"]
        return (*lines, f"{', '.join(others)}: the head's own loss") if others else tuple(lines)


def softmax_focal(logits: Tensor, targets: Tensor, gamma: float, weights: Tensor, _: Tensor) -> Tensor:
    """``-sum_c q_c weights_c (1 - p_c)^gamma log p_c``, [B], NaN where missing.

    Args:
        logits: [B, C].
        targets: integer [B], negative where missing, or shares ``q`` [B, C], a row of NaN where missing.
        gamma: the exponent.
        weights: [C].
    """
    logs = at_least_float32(logits).log_softmax(1)
    shares = as_shares(targets, logits.shape[1]).to(logs.dtype)
    missing = shares.isnan().any(1)
    rest = (1 - logs.exp()).clamp(min=1e-7)  # so that a small gamma has a finite gradient where all is right
    each = shares.nan_to_num(nan=0.0) * weights.to(logs) * rest**gamma * -logs
    return each.sum(1).masked_fill(missing, torch.nan)


def sigmoid_focal(logits: Tensor, targets: Tensor, gamma: float, applies: Tensor, absent: Tensor) -> Tensor:
    """``-y a (1 - p)^gamma log p - (1 - y) b p^gamma log(1 - p)``, averaged over the labels present of a sample, [B].

    Args:
        logits: [B, C].
        targets: ``y``, [B, C] in 0..1, NaN where missing.
        gamma: the exponent.
        applies, absent: ``a`` and ``b``, [C].
    """
    logits = at_least_float32(logits)
    present = ~targets.isnan()
    known = targets.to(logits.dtype).nan_to_num(nan=0.0)
    yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)  # log p and log(1 - p)
    each = -known * applies.to(yes) * (gamma * no).exp() * yes - (1 - known) * absent.to(no) * (gamma * yes).exp() * no
    labels = present.sum(1)
    return (each.masked_fill(~present, 0.0).sum(1) / labels.clamp(min=1)).masked_fill(labels == 0, torch.nan)


def build(spec: StrategySpec, options: FocalOptions) -> Focal:
    """The strategy ``focal``."""
    return Focal(options)
