"""Batch spectral shrinkage: the weakest directions of the features are pressed down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from zoo_registry import Batch, Losses, Run, Strategy, StrategySpec, TransferModel

from zoo_basics.options.losses import BssOptions


class Bss(Strategy):
    """``alpha * sum_{i=1..k} sigma_{-i}^2``: the ``k`` smallest singular values of a batch's features [B, D], squared.

    Chen et al., Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe Transfer Learning,
    NeurIPS 2019: directions of small singular values transfer badly; pressed down, they do no harm.

    A batch has ``min(B, D)`` singular values; where that is less than ``k`` all of them count. Of a map or tokens the
    mean over places is taken. Singular values are computed in float32 whatever the features are in. With gradient
    accumulation each micro-batch is a matrix of its own.

    Args:
        options: ``alpha`` and ``k``.
    """

    def __init__(self, options: BssOptions) -> None:
        self.alpha, self.k = options.alpha, options.k

    def penalty(self, model: TransferModel, batches: Mapping[str, Batch], run: Run) -> Losses:
        """``spectrum``, a scalar."""
        return {"spectrum": self.alpha * smallest_energy(pooled(model(batches["train"]).features), self.k)}

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """The strength and how many directions."""
        values = "the smallest singular value" if self.k == 1 else f"the {self.k} smallest singular values"
        return (f"shrinks {values} of each batch's features (alpha {self.alpha:g})",)


def smallest_energy(features: Tensor, k: int) -> Tensor:
    """The sum of the squares of the ``k`` smallest singular values of [B, D], NaN where it is not finite."""
    if not bool(features.isfinite().all()):
        return features.float().sum() * torch.nan  # the decomposition would raise; the loop reports the loss
    return torch.linalg.svdvals(features.float())[-k:].square().sum()


def pooled(features: Any) -> Tensor:
    """One vector a sample, [B, D], of features of any kind: the mean over the places of a map (of a pyramid's last) or
    over tokens."""
    if isinstance(features, list | tuple):
        features = features[-1]
    if features.ndim == 4:
        return features.mean((2, 3))
    return features.mean(1) if features.ndim == 3 else features


def build(spec: StrategySpec, options: BssOptions) -> Bss:
    """The strategy ``bss``."""
    return Bss(options)
