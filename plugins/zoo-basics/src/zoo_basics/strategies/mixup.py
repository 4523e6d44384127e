"""Mixup: samples and labels are blended in pairs."""

from __future__ import annotations

import torch
from torch import Tensor
from zoo_registry import Run, StrategySpec

from zoo_basics.options.data import MixupOptions
from zoo_basics.strategies.mixing import Mixing


class Mixup(Mixing):
    """``x = lambda x_i + (1 - lambda) x_j``, the loss likewise; ``lambda ~ Beta(alpha, alpha)``.

    Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018 (arXiv 1710.09412). Inputs are tensors [B, ...]
    of any shape, normalised as the model gets them. The loss of a value (regression) is shared like that of a label.

    Args:
        options: ``alpha``, ``prob``, ``per``.
    """

    def __init__(self, options: MixupOptions) -> None:
        super().__init__("basics/mixup", options.alpha, options.prob, options.per)

    def mix(
        self, views: dict[str, Tensor], order: Tensor, shares: Tensor, run: Run
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Blend each view with itself in the order of the partners."""
        return {name: blend(view, order, shares) for name, view in views.items()}, shares


def blend(view: Tensor, order: Tensor, shares: Tensor) -> Tensor:
    """``shares * view + (1 - shares) * view[order]``, [B, ...]; ``shares`` is [B] or [1]."""
    weight = shares.to(view.dtype).reshape(-1, *(1 for _ in view.shape[1:]))
    return torch.lerp(view[order], view, weight)


def build(spec: StrategySpec, options: MixupOptions) -> Mixup:
    """The strategy ``mixup``."""
    return Mixup(options)
