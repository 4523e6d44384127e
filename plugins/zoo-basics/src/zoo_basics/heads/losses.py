"""Per-sample losses that mark missing labels with NaN and keep NaN out of the gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """``values`` in float32, or in float64 where they are: losses and scores of half precision lose too much."""
    if values.dtype in (torch.float32, torch.float64):
        return values
    return values.to(torch.promote_types(values.dtype, torch.float32))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """``-sum_c p_c log softmax(logits)_c`` of each sample.

    Args:
        logits: [B, C].
        targets: integer [B], negative where missing, or probabilities [B, C], a row with NaN where missing.

    Returns:
        [B], NaN where the label is missing. Missing labels give a gradient of exactly zero.
    """
    logits = at_least_float32(logits)
    if targets.is_floating_point():
        missing = targets.isnan().any(dim=1)
        filled = targets.to(logits.dtype).masked_fill(missing[:, None], 0.0)
    else:
        if targets.device.type == "cpu" and len(targets) and targets.min().item() >= 0:  # costs no waiting there
            return F.cross_entropy(logits, targets.long(), reduction="none")
        missing = targets < 0
        filled = targets.clamp(min=0).long()
    return F.cross_entropy(logits, filled, reduction="none").masked_fill(missing, torch.nan)


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """``-[y log s(x) + (1 - y) log(1 - s(x))]``, ``s`` the sigmoid, averaged over the labels present of each sample.

    Args:
        logits: [B, C].
        targets: [B, C] in 0..1, NaN where missing.

    Returns:
        [B], NaN where a sample has no label at all. Missing labels give a gradient of exactly zero.
    """
    logits = at_least_float32(logits)
    targets = targets.to(logits.dtype)
    present = ~targets.isnan()
    each = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(nan=0.0), reduction="none")
    return _mean_of_present(each, present)


def deviation_loss(values: Tensor, targets: Tensor, scale: Tensor, kind: str = "mse", delta: float = 1.0) -> Tensor:
    """A loss of ``r = (value - target) / scale``: ``mse`` is ``r^2``, ``l1`` is ``|r|``, ``huber`` is ``r^2 / 2`` up to
    ``|r| = delta`` and ``delta (|r| - delta / 2)`` beyond (Huber, Robust Estimation of a Location Parameter, 1964).

    Args:
        values: [B].
        targets: [B], NaN where missing.
        scale: scalar, in the unit of the values.
        kind: ``mse``, ``l1`` or ``huber``.
        delta: for ``huber``.

    Returns:
        [B], NaN where the target is missing. Missing targets give a gradient of exactly zero.
    """
    missing = targets.isnan()
    error = ((values - targets.to(values.dtype)) / scale).masked_fill(missing, 0.0)
    if kind == "huber":
        loss = F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)
    else:
        loss = error.square() if kind == "mse" else error.abs()
    return loss.masked_fill(missing, torch.nan)


def asymmetric_loss(
    logits: Tensor, targets: Tensor, *, gamma_negative: float, gamma_positive: float, shift: float
) -> Tensor:
    """``-[y (1 - p)^g+ log p + (1 - y) q^g- log(1 - q)]`` with ``q = max(p - shift, 0)``, averaged over labels present.

    Ben-Baruch et al., Asymmetric Loss For Multi-Label Classification, ICCV 2021 (arXiv 2009.14119): negatives, of which
    there are many, are focused harder than positives, and those below ``shift`` count nothing. With both exponents and
    the shift at 0 it is the binary cross-entropy.

    Args:
        logits: [B, C]; ``p`` is their sigmoid.
        targets: [B, C] in 0..1, NaN where missing.
        gamma_negative, gamma_positive, shift: ``g-``, ``g+`` and the margin, 0 <= shift < 1.

    Returns:
        [B], NaN where a sample has no label at all. Missing labels give a gradient of exactly zero.
    """
    logits = at_least_float32(logits)
    targets = targets.to(logits.dtype)
    present = ~targets.isnan()
    known = targets.nan_to_num(nan=0.0)
    positive = _power(torch.sigmoid(-logits), gamma_positive) * F.logsigmoid(logits)
    shifted = (torch.sigmoid(logits) - shift).clamp(min=0.0)
    rest = torch.log1p(-shifted) if shift else F.logsigmoid(-logits)
    each = -(known * positive + (1 - known) * _power(shifted, gamma_negative) * rest)
    return _mean_of_present(each, present)


def _power(base: Tensor, exponent: float) -> Tensor:
    """``base ** exponent`` of what lies in 0..1; the gradient at 0 is 0, where a small exponent makes it infinite."""
    if exponent == 0:
        return torch.ones_like(base)
    inside = base > 0
    return torch.where(inside, torch.where(inside, base, 1.0) ** exponent, 0.0)


def _mean_of_present(each: Tensor, present: Tensor) -> Tensor:
    """Mean over the classes of each row that are present, [B]; NaN where none is."""
    labels = present.sum(dim=1)
    mean = each.masked_fill(~present, 0.0).sum(dim=1) / labels.clamp(min=1)
    return mean.masked_fill(labels == 0, torch.nan)
