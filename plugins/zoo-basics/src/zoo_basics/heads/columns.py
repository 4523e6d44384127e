"""What heads of one flat output share: its slices are the target columns, in order."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn
from zoo_registry import Classifier, Column

from zoo_basics.heads.losses import at_least_float32, cross_entropy

INIT_STD = 0.01
"""Standard deviation of fresh output weights (biases are zero): the first predictions are close to uniform, so early
gradients neither depend on the draw nor shake the backbone, and yet they reach it, as they would not from zeros."""


class ColumnHead(nn.Module):
    """A head whose flat output [B, K] is split into ``{column: [B, size]}``; subclasses have ``flat(features)``.

    Args:
        targets: the target columns; K is the sum of their sizes.
    """

    def __init__(self, targets: tuple[Column, ...]) -> None:
        super().__init__()
        self.columns = targets
        self.sizes = [column.size for column in targets]

    def flat(self, features: Tensor) -> Tensor:
        """All outputs side by side, [B, K], of features [B, D]."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """``{column: [B, size]}`` of features [B, D]."""
        parts = self.flat(features).split(self.sizes, dim=1)
        return {column.name: part for column, part in zip(self.columns, parts, strict=True)}

    def fold_linear(self, layer: nn.Linear) -> Classifier | None:
        """``layer`` as the classifier of the only column; None where there are several."""
        if len(self.columns) != 1:
            return None
        return Classifier(layer.weight.detach().clone(), layer.bias.detach().clone())


class ClassificationHead(ColumnHead):
    """A head of softmax columns."""

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy per sample, ``{column: [B]}``, see :func:`~zoo_basics.heads.losses.cross_entropy`."""
        return {name: cross_entropy(logits, targets[name]) for name, logits in outputs.items()}

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Class probabilities, ``{column: [B, C]}``."""
        return {name: at_least_float32(logits).softmax(dim=1) for name, logits in outputs.items()}


def output_layer(width: int, size: int) -> nn.Linear:
    """A linear layer drawn by :data:`INIT_STD`."""
    layer = nn.Linear(width, size)
    nn.init.normal_(layer.weight, std=INIT_STD)
    nn.init.zeros_(layer.bias)
    return layer


def class_shares(targets: Tensor, classes: int) -> Tensor:
    """How much of each sample belongs to each class, [N, C]; a row of zeros where the label is missing.

    Args:
        targets: integer [N], negative where missing, or probabilities [N, C], a row with NaN where missing.
        classes: C.
    """
    if targets.is_floating_point():
        return targets.masked_fill(targets.isnan().any(dim=1, keepdim=True), 0.0)
    return F.one_hot(targets.clamp(min=0).long(), classes) * (targets >= 0)[:, None]
