"""The multi-task head: target columns of different kinds on one backbone, weighed by what the data says."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from zoo_registry import Classifier, Column, HeadSpec

from zoo_basics.heads.linear import LinearHead
from zoo_basics.heads.multilabel import MultilabelHead
from zoo_basics.heads.regression import RegressionHead
from zoo_basics.options.heads import LinearOptions, MultilabelOptions, MultiTaskOptions, RegressionOptions

GAIN = 10.0
"""A step of the optimiser moves ``s`` by so many times what it moves a weight: ``s`` has whole units to go."""

BOUND = 4.0
"""``s`` stays within plus and minus this, so that no column weighs more than 55 times as much as it would alone."""


class MultiTaskHead(nn.Module):
    """A linear layer for each column, and a learned weight for each loss.

    Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018 (arXiv 1705.07115), with
    ``s = log sigma^2`` of each column: ``exp(-s) L + s / 2`` for classification and multilabel columns,
    ``exp(-s) L / 2 + s / 2`` for regression, where ``L`` is the squared error in standard deviations. For a loss that
    stays as it is, ``s`` goes to ``log 2L`` (regression: ``log L``): noisy columns count less. ``s`` starts at 0 and is
    ``BOUND tanh(GAIN r / BOUND)`` of a parameter ``r``.

    Args:
        width: D of the features [B, D].
        targets: columns of the kinds classification, multilabel and regression, any mix.
        options: weighting (``equal`` is ``s = 0``), dropout, threshold and loss of multilabel columns, loss of
            regression columns.

    A column of which a batch has no label leaves its ``r`` without a gradient, so that no optimiser moves it.
    """

    def __init__(self, width: int, targets: tuple[Column, ...], options: MultiTaskOptions) -> None:
        super().__init__()
        self.columns = targets
        self.threshold = options.threshold
        self.parts = nn.ModuleList(_part(width, column, options) for column in targets)
        self.learned = options.weighting == "uncertainty" and len(targets) > 1
        if self.learned:
            self.raw = nn.ParameterList(torch.zeros(()) for _ in targets)

    def log_variance(self, place: int) -> Tensor:
        """``s`` of the column in this place, a scalar."""
        return BOUND * torch.tanh(GAIN / BOUND * self.raw[place])

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """``{column: logits [B, C]}``, or values [B]."""
        outputs: dict[str, Tensor] = {}
        for part in self.parts:
            outputs |= part(features)
        return outputs

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``{column: [B]}``, weighed; NaN where the label is missing."""
        losses = {}
        for place, (column, part) in enumerate(zip(self.columns, self.parts, strict=True)):
            if column.name in outputs:
                each = part.loss({column.name: outputs[column.name]}, targets)[column.name]
                losses[column.name] = self._weighed(each, place)
        return losses

    def _weighed(self, each: Tensor, place: int) -> Tensor:
        missing = each.isnan()
        if not self.learned or bool(missing.all()):
            return each
        s = self.log_variance(place)
        half = 0.5 if self.columns[place].kind == "regression" else 1.0
        weighed = half * torch.exp(-s) * each.masked_fill(missing, 0.0) + s / 2  # NaN would reach the gradient of s
        return weighed.masked_fill(missing, torch.nan)

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``{column: probabilities [B, C]}``, or values [B]."""
        decoded: dict[str, Tensor] = {}
        for column, part in zip(self.columns, self.parts, strict=True):
            decoded |= part.decode({column.name: outputs[column.name]})
        return decoded

    def prepare_targets(self, targets: Mapping[str, Tensor]) -> None:
        """Mean and deviation of the regression columns, see :class:`~zoo_basics.heads.regression.RegressionHead`."""
        for part in self.parts:
            if isinstance(part, RegressionHead):
                part.prepare_targets(targets)

    def fold(self) -> Classifier | None:
        """That of the only column, else None."""
        return self.parts[0].fold() if len(self.parts) == 1 else None


def _part(width: int, column: Column, options: MultiTaskOptions) -> nn.Module:
    """The head that would serve this column alone."""
    shared = {"dropout": options.dropout}
    if column.kind == "regression":
        return RegressionHead(width, (column,), RegressionOptions(loss=options.regression, **shared))
    if column.kind == "multilabel":
        chosen = MultilabelOptions(loss=options.multilabel, threshold=options.threshold, **shared)
        return MultilabelHead(width, (column,), chosen)
    return LinearHead(width, (column,), LinearOptions(**shared))


def build(spec: HeadSpec, options: MultiTaskOptions, *, width: int, targets: tuple[Column, ...]) -> MultiTaskHead:
    """The head ``multi-task``."""
    return MultiTaskHead(width, targets, options)
