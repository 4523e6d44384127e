"""The linear head: logistic regression on the features."""

from __future__ import annotations

from torch import Tensor, nn
from zoo_registry import Classifier, Column, HeadSpec

from zoo_basics.heads.columns import ClassificationHead, output_layer
from zoo_basics.options.heads import LinearOptions


class LinearHead(ClassificationHead):
    """``logits = W f + b`` and softmax; all columns share one layer, each has its own rows of it.

    Args:
        width: D of the features [B, D].
        targets: columns of the kind classification.
        options: dropout on the features.

    Fresh weights are normal with standard deviation 0.01, biases zero.
    """

    def __init__(self, width: int, targets: tuple[Column, ...], options: LinearOptions) -> None:
        super().__init__(targets)
        self.dropout = nn.Dropout(options.dropout)
        self.layer = output_layer(width, sum(self.sizes))

    def flat(self, features: Tensor) -> Tensor:
        """Logits of all columns, [B, K]."""
        logits: Tensor = self.layer(self.dropout(features))
        return logits

    def fold(self) -> Classifier | None:
        """The layer itself where there is one column, else None."""
        return self.fold_linear(self.layer)


def build(spec: HeadSpec, options: LinearOptions, *, width: int, targets: tuple[Column, ...]) -> LinearHead:
    """The head ``linear``."""
    return LinearHead(width, targets, options)
