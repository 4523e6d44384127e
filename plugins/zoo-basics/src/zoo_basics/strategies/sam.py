"""Sharpness-aware minimisation: gradients are taken where the loss nearby is highest."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from zoo_registry import Run, Strategy, StrategySpec, TransferModel

from zoo_basics.options.losses import SamOptions

EPSILON = 1e-12
"""Added to norms."""

STEADY = 0.01
"""Added to the sizes of weights where the step is adaptive, so that a weight of 0 can move (ASAM's eta)."""


class Sam(Strategy):
    """The step uses the gradient at ``w + e``, ``e = rho * g / |g|`` with ``g`` the gradient at ``w``.

    Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR 2021 (arXiv 2010.01412).
    With ``adaptive`` ``e = rho * T^2 g / |T g|``, ``T = |w| + 0.01`` for each weight, so that the neighbourhood does
    not depend on how a network is scaled: Kwon et al., ASAM, ICML 2021 (arXiv 2102.11600); ``rho`` is then about ten
    times larger.

    The second pass sees the same batches under the same randomness, and all micro-batches of the step. It leaves no
    trace in buffers: BatchNorm statistics follow the first pass alone. The weights come back bit by bit before the
    optimiser moves them. What is frozen has no gradient and is not touched.

    Args:
        options: ``rho`` and ``adaptive``.
    """

    def __init__(self, options: SamOptions) -> None:
        self.rho, self.adaptive = options.rho, options.adaptive

    def before_step(self, model: TransferModel, run: Run) -> None:
        """Replace the gradients by those at ``w + e``; they stay as they are where they are zero or not finite."""
        module: nn.Module = model  # type: ignore[assignment]
        moving = [p for p in module.parameters() if p.grad is not None]
        climbs = self.climbs(moving)
        if climbs is None:
            return
        kept = [p.detach().clone() for p in moving]
        buffers = [(b, b.detach().clone()) for b in module.buffers()]
        with torch.no_grad():
            for parameter, climb in zip(moving, climbs, strict=True):
                parameter.add_(climb)
        try:
            run.backward()
        finally:
            with torch.no_grad():
                for parameter, value in zip(moving, kept, strict=True):
                    parameter.copy_(value)
                for buffer, value in buffers:
                    buffer.copy_(value)

    def climbs(self, parameters: list[nn.Parameter]) -> list[Tensor] | None:
        """``e`` for each parameter, by its gradient; None where all gradients are zero or one is not finite."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        scales: list[Tensor | float] = [1.0] * len(gradients)
        if self.adaptive:
            scales = [p.detach().abs() + STEADY for p in parameters]
        scaled = [g * scale for g, scale in zip(gradients, scales, strict=True)]
        if not scaled:
            return None
        norm = torch.nn.utils.get_total_norm(scaled).item()
        if not 0 < norm < float("inf"):
            return None
        factor = self.rho / (norm + EPSILON)
        return [g * scale * factor for g, scale in zip(scaled, scales, strict=True)]

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """The radius and the cost."""
        kind = "adaptive, " if self.adaptive else ""
        return (f"gradients are taken uphill ({kind}rho {self.rho:g}): two passes a step, about twice the time",)


def build(spec: StrategySpec, options: SamOptions) -> Sam:
    """The strategy ``sam``."""
    return Sam(options)
