"""The prototype head: nearest class mean, fitted in one pass and without gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from zoo_registry import Classifier, Column, DataError, HeadSpec

from zoo_basics.heads.columns import ClassificationHead, class_shares
from zoo_basics.options.heads import PrototypeOptions


class PrototypeHead(ClassificationHead):
    """``p(c | f) = softmax_c(-|f - m_c|^2 / T)`` with ``m_c`` the mean of the features of class ``c``.

    Snell, Swersky and Zemel, Prototypical Networks for Few-shot Learning, NeurIPS 2017 (arXiv 1703.05175): with squared
    Euclidean distance this is a linear classifier, ``-|f - m_c|^2 = 2 <f, m_c> - |m_c|^2 - |f|^2``, and ``|f|^2`` is
    the same for all classes. The logits here leave it out, so they equal those of the folded layer, and their softmax
    that of the distances. With ``normalise`` features are brought to length 1 first, as in Wang et al., SimpleShot
    (arXiv 1911.04623, its L2N).

    Args:
        width: D of the features [B, D].
        targets: columns of the kind classification.
        options: normalise, temperature ``T``.

    The means are buffers, zero until :meth:`fit`; there is no parameter. Before that all classes are equally likely.
    """

    means: Tensor

    def __init__(self, width: int, targets: tuple[Column, ...], options: PrototypeOptions) -> None:
        super().__init__(targets)
        self.normalise = options.normalise
        self.temperature = options.temperature
        self.register_buffer("means", torch.zeros(sum(self.sizes), width))

    def _layer(self) -> tuple[Tensor, Tensor]:
        """Weight [K, D] and bias [K] on (normalised) features."""
        return 2 / self.temperature * self.means, -self.means.square().sum(dim=1) / self.temperature

    def flat(self, features: Tensor) -> Tensor:
        """``(|f|^2 - |f - m_c|^2) / T`` for all columns, [B, K]."""
        return F.linear(F.normalize(features, dim=1) if self.normalise else features, *self._layer())

    def fit(self, features: Tensor, targets: Mapping[str, Tensor]) -> None:
        """Set the class means, in double precision.

        Args:
            features: [N, D].
            targets: ``{column: integer [N], negative where missing, or soft [N, C]}``; soft ones weigh the mean.

        Raises:
            DataError: names the classes that have no sample; the head stays as it was.
        """
        features = features.detach().to(self.means.device, torch.float64)
        features = F.normalize(features, dim=1) if self.normalise else features
        means = [_class_means(features, targets[column.name], column) for column in self.columns]
        self.means.copy_(torch.cat(means))

    def fold(self) -> Classifier | None:
        """``w_c = 2 m_c / T``, ``b_c = -|m_c|^2 / T``; None with ``normalise`` or several columns."""
        if self.normalise or len(self.columns) != 1:
            return None
        return Classifier(*self._layer())


def _class_means(features: Tensor, targets: Tensor, column: Column) -> Tensor:
    """The means [C, D] of features [N, D]."""
    shares = class_shares(targets.to(features.device), column.size).to(features.dtype)
    weight = shares.sum(dim=0)
    empty = [label for label, total in zip(column.classes, weight.tolist(), strict=True) if total <= 0]
    if empty:
        names = ", ".join(map(repr, empty[:5])) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        raise DataError(
            f"column {column.name!r}: no training sample of class {names}, so it has no mean",
            hint="add a sample of each class, or take head 'linear'",
        )
    return (shares / weight).T @ features


def build(spec: HeadSpec, options: PrototypeOptions, *, width: int, targets: tuple[Column, ...]) -> PrototypeHead:
    """The head ``prototype``."""
    return PrototypeHead(width, targets, options)
