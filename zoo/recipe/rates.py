"""What a default rate comes to on a backbone of some size."""

from __future__ import annotations

from collections.abc import Sequence

from zoo_registry import StrategySpec

REFERENCE_PARAMETERS = 1_000_000
"""Backbones up to this size learn at the strategies' own rates: those were tuned on such."""


def size_factor(parameters: int | None) -> float:
    """``min(1, sqrt(10^6 / parameters))``, 1 where the size is unknown.

    With Adam the best rate of hidden layers falls as 1 / width (Yang et al., Tensor Programs V, 2022,
    https://arxiv.org/abs/2203.03466), and at a given depth the width grows as the root of the parameters. What ``full``
    comes to is where practice is: 2e-4 for a ResNet-50, 1.1e-4 for a ViT-B, 5.7e-5 for a ViT-L.
    """
    if not parameters or parameters <= REFERENCE_PARAMETERS:
        return 1.0
    return float((REFERENCE_PARAMETERS / parameters) ** 0.5)


def scaled_rate(rate: float, specs: Sequence[StrategySpec], parameters: int | None) -> float:
    """A phase's default rate for a backbone of this size, to two digits; of the head alone as it is.

    Args:
        rate: the default of the phase's strategies.
        specs: the phase's strategies.
        parameters: of the backbone, None where unknown.
    """
    tunings = [spec for spec in specs if spec.role == "tuning"]
    moves = not tunings or any("backbone" in spec.touches for spec in specs)
    factor = size_factor(parameters) if moves else 1.0
    return rate if factor == 1.0 else float(f"{rate * factor:.2g}")
