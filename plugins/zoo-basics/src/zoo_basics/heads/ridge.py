"""The ridge head: least squares with a penalty, solved in one go."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from zoo_registry import Classifier, Column, DataError, HeadSpec

from zoo_basics.heads.columns import ColumnHead, class_shares
from zoo_basics.heads.losses import at_least_float32, cross_entropy, deviation_loss
from zoo_basics.heads.ridge_solve import fit_scale, solve_ridge
from zoo_basics.options.heads import RidgeOptions


class RidgeHead(ColumnHead):
    """``min_W |Y - F W' - b|^2 + penalty |W|^2`` on one-hot labels ``Y``, in closed form and double precision.

    Hoerl and Kennard, Ridge Regression: Biased Estimation for Nonorthogonal Problems, Technometrics 1970; as a
    classifier on deep features Bertinetto et al., Meta-learning with differentiable closed-form solvers, ICLR 2019
    (arXiv 1805.08136). Each column is solved on the samples that have a label for it, with a penalty of its own: the
    one with the smallest squared leave-one-out error, see :func:`~zoo_basics.heads.ridge_solve.solve_ridge`.

    Least-squares outputs lie around 0 and 1; times ``scale`` they are logits. The scale is the one for which the
    softmax fits the labels best on the leave-one-out predictions, so the probabilities are about as sure as they should
    be. A column of the kind regression is solved on standardised values and has no scale.

    Args:
        width: D of the features [B, D].
        targets: columns of the kind classification or regression.
        options: penalty and scale, found from the data where they are None.

    ``weight`` [K, D] and ``bias`` [K] are buffers, zero until :meth:`fit`; there is no parameter. ``penalty`` and
    ``scale`` [columns] tell what was chosen.
    """

    weight: Tensor
    bias: Tensor
    std: Tensor
    penalty: Tensor
    scale: Tensor

    def __init__(self, width: int, targets: tuple[Column, ...], options: RidgeOptions) -> None:
        super().__init__(targets)
        self.options = options
        self.register_buffer("weight", torch.zeros(sum(self.sizes), width))
        self.register_buffer("bias", torch.zeros(sum(self.sizes)))
        for name in ("std", "penalty", "scale"):
            self.register_buffer(name, torch.ones(len(targets)))

    def flat(self, features: Tensor) -> Tensor:
        """Logits and values of all columns, [B, K]."""
        return F.linear(features, self.weight, self.bias)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """``{column: logits [B, C]}``, or values [B] for regression, in the units of the data."""
        outputs = super().forward(features)
        flat = {column.name for column in self.columns if column.kind == "regression"}
        return {name: values.squeeze(1) if name in flat else values for name, values in outputs.items()}

    @torch.no_grad()
    def fit(self, features: Tensor, targets: Mapping[str, Tensor]) -> None:
        """Solve every column.

        Args:
            features: [N, D].
            targets: ``{column: integer [N], negative where missing, or soft [N, C]}``; regression [N], NaN where
                missing.

        Raises:
            DataError: a column has no label; the head stays as it was.
        """
        features = features.detach().to("cpu" if features.device.type == "mps" else features.device)
        solved = [self._solve(column, features, targets[column.name].to(features.device)) for column in self.columns]
        for name in ("weight", "bias"):
            getattr(self, name).copy_(torch.cat([each[name] for each in solved]))
        for name in ("std", "penalty", "scale"):
            getattr(self, name).copy_(torch.tensor([each[name] for each in solved]))

    def _solve(self, column: Column, features: Tensor, targets: Tensor) -> dict[str, Tensor | float]:
        regression = column.kind == "regression"
        wanted = targets.double()[:, None] if regression else class_shares(targets, column.size).double()
        known = ~wanted.isnan().any(dim=1) if regression else wanted.sum(dim=1) > 0
        if not known.any():
            raise DataError(f"column {column.name!r} has no label in train", hint="leave the column out")
        wanted = wanted[known]
        mean, std = torch.zeros_like(wanted[0]), 1.0
        if regression:
            mean, std = wanted.mean(0), float(wanted.std(correction=0)) or 1.0
        found = solve_ridge(features[known], (wanted - mean) / std, self.options.penalty)
        scale = 1.0
        if not regression:
            scale = fit_scale(found.left_out, wanted) if self.options.scale is None else self.options.scale
        weight, bias = scale * std * found.weight, scale * (std * found.bias + mean)
        return {"weight": weight, "bias": bias, "std": std, "penalty": found.penalty, "scale": scale}

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``{column: [B]}``: cross-entropy, or the squared error in standard deviations; NaN where missing."""
        places = {column.name: place for place, column in enumerate(self.columns)}
        return {
            name: deviation_loss(values, targets[name], self.std[places[name]])
            if self.columns[places[name]].kind == "regression"
            else cross_entropy(values, targets[name])
            for name, values in outputs.items()
        }

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``{column: probabilities [B, C]}``, or values [B]."""
        return {
            name: at_least_float32(values) if values.ndim == 1 else at_least_float32(values).softmax(dim=1)
            for name, values in outputs.items()
        }

    def fold(self) -> Classifier | None:
        """Weight and bias of the only column, else None."""
        return Classifier(self.weight.clone(), self.bias.clone()) if len(self.columns) == 1 else None


def build(spec: HeadSpec, options: RidgeOptions, *, width: int, targets: tuple[Column, ...]) -> RidgeHead:
    """The head ``ridge``."""
    return RidgeHead(width, targets, options)
