"""The specs of the strategies that average weights."""

from __future__ import annotations

from zoo_registry import StrategySpec

AVERAGING: tuple[StrategySpec, ...] = ()
