"""The learning rate over a phase, as a factor of the peak rate."""

from __future__ import annotations

import math


def rate_factor(step: int, total: int, *, warmup: float, schedule: str) -> float:
    """The factor for ``step`` (from 0) of ``total``.

    Linear from 1/w to 1 over the first ``w = round(warmup * total)`` steps, then cosine to 0 (SGDR without restarts,
    arXiv 1608.03983), linear to 0, or constant.
    """
    warm = round(warmup * total)
    if step < warm:
        return (step + 1) / (warm + 1)
    progress = (step - warm) / max(1, total - warm)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1 - progress
    return 0.5 * (1 + math.cos(math.pi * progress))
