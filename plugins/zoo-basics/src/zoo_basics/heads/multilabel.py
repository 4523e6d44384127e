"""The multilabel head: any number of labels a sample."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from zoo_registry import Classifier, Column, HeadSpec

from zoo_basics.heads.columns import ColumnHead, output_layer
from zoo_basics.heads.losses import asymmetric_loss, at_least_float32, binary_cross_entropy
from zoo_basics.options.heads import MultilabelOptions


class MultilabelHead(ColumnHead):
    """``p_c = sigmoid(w_c f + b_c)``, each class on its own; a loss for each label, averaged over the labels present.

    ``bce`` is the binary cross-entropy; ``asl`` the asymmetric loss (arXiv 2009.14119) for many classes of which few
    apply, see :func:`~zoo_basics.heads.losses.asymmetric_loss`.

    Args:
        width: D of the features [B, D].
        targets: columns of the kind multilabel.
        options: dropout on the features; ``threshold``, the probability from which on a label is predicted; the loss.

    Fresh weights are normal with standard deviation 0.01, biases zero. ``threshold`` is public, for those who turn
    probabilities into labels.
    """

    def __init__(self, width: int, targets: tuple[Column, ...], options: MultilabelOptions) -> None:
        super().__init__(targets)
        self.options = options
        self.threshold = options.threshold
        self.dropout = nn.Dropout(options.dropout)
        self.layer = output_layer(width, sum(self.sizes))

    def flat(self, features: Tensor) -> Tensor:
        """Logits of all columns, [B, K]."""
        logits: Tensor = self.layer(self.dropout(features))
        return logits

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``{column: [B]}``, NaN where a sample has no label at all."""
        return {name: self._loss(logits, targets[name]) for name, logits in outputs.items()}

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.options.loss == "bce":
            return binary_cross_entropy(logits, targets)
        gammas = {"gamma_negative": self.options.gamma_negative, "gamma_positive": self.options.gamma_positive}
        return asymmetric_loss(logits, targets, shift=self.options.shift, **gammas)

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Probability of each label, ``{column: [B, C]}``; rows do not add up to 1."""
        return {name: at_least_float32(logits).sigmoid() for name, logits in outputs.items()}

    def fold(self) -> Classifier | None:
        """The layer itself where there is one column, else None; its logits want a sigmoid, not a softmax."""
        return self.fold_linear(self.layer)


def build(spec: HeadSpec, options: MultilabelOptions, *, width: int, targets: tuple[Column, ...]) -> MultilabelHead:
    """The head ``multilabel``."""
    return MultilabelHead(width, targets, options)
