"""The specs of the strategies that change the loss: objective, penalty."""

from __future__ import annotations

from zoo_registry import StrategySpec

LOSSES: tuple[StrategySpec, ...] = ()
