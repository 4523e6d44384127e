"""Label smoothing: a share of every label is spread over all classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from zoo_registry import Batch, Run, Strategy, StrategySpec, TransferModel, UsageError

from zoo_basics.options.data import LabelSmoothingOptions


class LabelSmoothing(Strategy):
    """``q = (1 - amount) onehot(y) + amount / C`` in place of each label of a classification column.

    Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016 (arXiv 1512.00567). Labels that
    are already shares are smoothed likewise, missing ones stay missing. With ``mixup`` or ``cutmix`` the order does not
    matter. Multilabel and regression columns are left alone: the method is about a distribution over classes.

    Args:
        options: ``amount``.
    """

    def __init__(self, options: LabelSmoothingOptions) -> None:
        self.amount = options.amount
        self._sizes: dict[str, int] = {}

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Find the columns.

        Raises:
            UsageError: none is for classification.
        """
        self._sizes = {column.name: column.size for column in run.columns if column.kind == "classification"}
        if not self._sizes:
            raise UsageError(
                "strategy 'label-smoothing' is for classification, and no column of the data is", hint="leave it out"
            )

    def alter(self, batch: Batch, run: Run) -> Batch:
        """Smooth the targets, those of a mixed batch too."""
        if batch.targets is not None:
            batch.targets = self._smoothed(batch.targets)
        if batch.mix is not None:
            batch.mix = [(self._smoothed(targets), weights) for targets, weights in batch.mix]
        return batch

    def _smoothed(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: smooth(values, self._sizes[name], self.amount) if name in self._sizes else values
            for name, values in targets.items()
        }


def smooth(labels: Tensor, classes: int, amount: float) -> Tensor:
    """Shares [B, C] of labels, integer [B] (negative where missing) or shares [B, C]; rows of NaN where missing."""
    return as_shares(labels, classes) * (1 - amount) + amount / classes


def as_shares(labels: Tensor, classes: int) -> Tensor:
    """Labels as shares [B, C], a row of NaN where missing."""
    if labels.is_floating_point():
        return labels
    hot = torch.nn.functional.one_hot(labels.clamp(min=0).long(), classes).to(torch.get_default_dtype())
    return hot.masked_fill((labels < 0)[:, None], torch.nan)


def build(spec: StrategySpec, options: LabelSmoothingOptions) -> LabelSmoothing:
    """The strategy ``label-smoothing``."""
    return LabelSmoothing(options)
