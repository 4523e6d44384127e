"""Ridge regression in closed form, with the leave-one-out predictions of every training sample for any penalty."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 4096
"""Rows that are brought to double precision at once."""

GRID = tuple(10 ** (exponent / 2) for exponent in range(-12, 9))
"""Penalties that are tried, in units of the mean eigenvalue of the features' scatter: 1e-6 to 1e4, two a decade."""


@dataclass(frozen=True)
class RidgeFit:
    """A solution, in double precision.

    Attributes:
        weight: [K, D]; bias: [K].
        penalty: the one it was solved for.
        left_out: [N, K], what the solution without sample i predicts for sample i.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    left_out: Tensor


def solve_ridge(x: Tensor, y: Tensor, penalty: float | None = None) -> RidgeFit:
    """Minimise ``|y - x W' - b|^2 + penalty |W|^2``; the intercept ``b`` is free.

    Hoerl and Kennard, Ridge Regression, Technometrics 1970. With eigenvalues ``e`` of the centred scatter, everything
    is a sum over ``1 / (e + penalty)``, so one decomposition serves all penalties. The left-out residual is
    ``(y_i - p_i) / (1 - h_i)`` with ``h`` the diagonal of the hat matrix (PRESS: Allen, Technometrics 1974), exact for
    a fixed penalty. The smaller of the two Gram matrices is decomposed, [D, D] or, where D >= N, [N, N].

    Args:
        x: [N, D], N >= 1, of any floating type; computed in float64.
        y: [N, K].
        penalty: None takes the one of :data:`GRID` with the smallest mean squared left-out residual.
    """
    y = y.to(x.device, torch.float64)
    centre, mean = x.mean(0, dtype=torch.float64), y.mean(0)
    path = _Dual(x, y - mean, centre) if len(x) <= x.shape[1] else _Primal(x, y - mean, centre)
    tried = [penalty] if penalty is not None else [path.unit * factor for factor in GRID]
    errors = [float(path.residuals(each).square().mean()) for each in tried] if len(tried) > 1 else [0.0]
    best = tried[errors.index(min(errors))]
    weight = path.weight(best)
    return RidgeFit(weight, mean - weight @ centre, best, y - path.residuals(best))


class _Primal:
    """More samples than features: eigenvectors of the scatter [D, D], rows of x taken in chunks."""

    def __init__(self, x: Tensor, y: Tensor, centre: Tensor) -> None:
        self.x, self.y, self.centre = x, y, centre
        scatter = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
        cross = x.new_zeros(x.shape[1], y.shape[1], dtype=torch.float64)
        for rows, part in self._chunks():
            scatter += part.T @ part
            cross += part.T @ y[rows]
        values, self.vectors = torch.linalg.eigh(scatter)
        self.values = values.clamp(min=0)
        self.cross = self.vectors.T @ cross
        self.unit = float(self.values.mean()) or 1.0

    def _chunks(self) -> list[tuple[slice, Tensor]] | zip[tuple[slice, Tensor]]:
        spans = [slice(start, start + CHUNK) for start in range(0, len(self.x), CHUNK)]
        return zip(spans, (self.x[span].double() - self.centre for span in spans), strict=True)

    def weight(self, penalty: float) -> Tensor:
        return (self.vectors @ (self.cross / (self.values + penalty)[:, None])).T

    def residuals(self, penalty: float) -> Tensor:
        inverse = 1 / (self.values + penalty)
        found = []
        for rows, part in self._chunks():
            turned = part @ self.vectors
            hat = 1 / len(self.x) + turned.square() @ inverse
            error = self.y[rows] - turned @ (self.cross * inverse[:, None])
            found.append(error / (1 - hat).clamp(min=1e-12)[:, None])
        return torch.cat(found)


class _Dual:
    """At most as many samples as features: eigenvectors of the Gram matrix [N, N].

    The vector of ones is an eigenvector of the centred Gram matrix; moved from eigenvalue 0 to ``unit`` it can be taken
    out of the sums exactly. Residual and ``1 - h`` share the factor ``penalty``, which is left out of both, so they
    stay exact where every training sample is met.
    """

    def __init__(self, x: Tensor, y: Tensor, centre: Tensor) -> None:
        self.x, self.y = x.double() - centre, y
        gram = self.x @ self.x.T
        self.unit = float(gram.trace()) / max(1, len(x) - 1) or 1.0
        self.values, self.vectors = torch.linalg.eigh(gram + self.unit / len(x))
        self.values = self.values.clamp(min=0)

    def _dual(self, penalty: float) -> Tensor:
        return self.vectors @ (self.vectors.T @ self.y / (self.values + penalty)[:, None])

    def weight(self, penalty: float) -> Tensor:
        return self._dual(penalty).T @ self.x

    def residuals(self, penalty: float) -> Tensor:
        ones = 1 / (len(self.x) * (self.unit + penalty))
        free = self.vectors.square() @ (1 / (self.values + penalty)) - ones
        return self._dual(penalty) / free.clamp(min=1e-300)[:, None]


def fit_scale(left_out: Tensor, shares: Tensor, low: float = 1.0, high: float = 1e4) -> float:
    """The factor ``s`` for which ``softmax(s left_out)`` has the smallest cross-entropy with the labels.

    One number, and convex: found by bisecting the derivative. The labels are smoothed by ``1 / (N + 1)`` (in the
    spirit of Platt, 1999), which keeps ``s`` finite where no left-out prediction is wrong.

    Args:
        left_out: [N, C], predictions for samples that had no part in them.
        shares: [N, C], rows that add up to 1.
        low, high: bounds of ``s``.
    """
    count, classes = shares.shape
    smooth = torch.lerp(shares.double(), torch.full_like(left_out, 1 / classes), 1 / (count + 1))
    for _ in range(50):
        middle = (low * high) ** 0.5
        slope = (((middle * left_out).softmax(dim=1) - smooth) * left_out).sum()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return (low * high) ** 0.5
