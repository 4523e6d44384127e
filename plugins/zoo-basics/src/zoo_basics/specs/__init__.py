"""The specs of the heads, strategies and recipes: plain data, free of torch."""

from __future__ import annotations

from zoo_registry import StrategySpec

from zoo_basics.specs.averaging import AVERAGING
from zoo_basics.specs.data import DATA
from zoo_basics.specs.heads import HEADS
from zoo_basics.specs.losses import LOSSES
from zoo_basics.specs.recipes import RECIPES
from zoo_basics.specs.tuning import TUNING

STRATEGIES: tuple[StrategySpec, ...] = (*TUNING, *DATA, *LOSSES, *AVERAGING)

__all__ = ["HEADS", "RECIPES", "STRATEGIES"]
