"""Per-sample losses that mark missing labels with NaN and keep NaN out of the gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """``values`` in float32, or in float64 where they are: losses and scores of half precision lose too much."""
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
    labels = present.sum(dim=1)
    mean = each.masked_fill(~present, 0.0).sum(dim=1) / labels.clamp(min=1)
    return mean.masked_fill(labels == 0, torch.nan)
