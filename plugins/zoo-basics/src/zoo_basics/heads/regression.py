"""The regression head: one number per column."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from zoo_registry import Classifier, Column, DataError, HeadSpec

from zoo_basics.heads.columns import ColumnHead, output_layer
from zoo_basics.heads.losses import at_least_float32, deviation_loss
from zoo_basics.options.heads import RegressionOptions


class RegressionHead(ColumnHead):
    """``y = mean + std (w f + b)``, in the units of the data, with the mean and deviation of the training targets.

    The loss is taken on ``(y - t) / std``, so the learning rate suits any unit: ``mse`` is ``r^2``, ``l1`` is ``|r|``,
    ``huber`` is ``r^2 / 2`` up to ``|r| = delta`` and ``delta (|r| - delta / 2)`` beyond (Huber, Robust Estimation of a
    Location Parameter, 1964).

    Args:
        width: D of the features [B, D].
        targets: columns of the kind regression.
        options: loss, delta, dropout on the features.

    Mean and deviation are buffers, 0 and 1 until :meth:`prepare_targets`. Fresh weights are normal with standard
    deviation 0.01, biases zero: the first prediction is close to the mean.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, targets: tuple[Column, ...], options: RegressionOptions) -> None:
        super().__init__(targets)
        self.kind = options.loss
        self.delta = options.delta
        self.dropout = nn.Dropout(options.dropout)
        self.layer = output_layer(width, len(targets))
        self.register_buffer("mean", torch.zeros(len(targets)))
        self.register_buffer("std", torch.ones(len(targets)))

    def prepare_targets(self, targets: Mapping[str, Tensor]) -> None:
        """Take over mean and standard deviation of the training targets, ``{column: [N], NaN where missing}``.

        Where all targets are equal the deviation is 1.

        Raises:
            DataError: a column has no target at all.
        """
        for index, column in enumerate(self.columns):
            values = targets[column.name].double()
            values = values[~values.isnan()]
            if not len(values):
                raise DataError(f"column {column.name!r} has no target in train")
            spread = values.std(correction=0)
            self.mean[index] = values.mean()
            self.std[index] = spread if spread > 0 else 1.0

    def flat(self, features: Tensor) -> Tensor:
        """Values of all columns, [B, K]."""
        return self.mean + self.std * at_least_float32(self.layer(self.dropout(features)))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """``{column: [B]}`` in the units of the data."""
        return {name: values.squeeze(1) for name, values in super().forward(features).items()}

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``{column: [B]}`` of values in standard deviations, NaN (and a gradient of zero) where missing."""
        scales = dict(zip((column.name for column in self.columns), self.std, strict=True))
        return {
            name: deviation_loss(values, targets[name], scales[name], self.kind, self.delta)
            for name, values in outputs.items()
        }

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values as they are, ``{column: [B]}``."""
        return {name: at_least_float32(values) for name, values in outputs.items()}

    def fold(self) -> Classifier | None:
        """``weight = std w`` and ``bias = mean + std b`` of the only column, else None."""
        if len(self.columns) != 1:
            return None
        with torch.no_grad():
            return Classifier(self.std[:, None] * self.layer.weight, self.mean + self.std * self.layer.bias)


def build(spec: HeadSpec, options: RegressionOptions, *, width: int, targets: tuple[Column, ...]) -> RegressionHead:
    """The head ``regression``."""
    return RegressionHead(width, targets, options)
