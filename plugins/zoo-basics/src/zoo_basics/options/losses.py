"""The options of the strategies that change the loss: objective, penalty."""

from __future__ import annotations

from dataclasses import dataclass

from zoo_registry import option


@dataclass(frozen=True, kw_only=True)
class L2SpOptions:
    """Options of the strategy ``l2-sp``."""

    alpha: float = option(0.01, help="strength of the pull of the backbone to the anchor", low=0.0)
    beta: float = option(0.01, help="strength of the pull of the head to zero", low=0.0)
    anchor: str = option("base", help="pretrained weights, or those at the phase's start", choices=("base", "start"))
