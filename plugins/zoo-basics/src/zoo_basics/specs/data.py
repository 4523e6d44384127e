"""The specs of the strategies that change the data: augment, sampling, batch."""

from __future__ import annotations

from zoo_registry import StrategySpec

DATA: tuple[StrategySpec, ...] = ()
