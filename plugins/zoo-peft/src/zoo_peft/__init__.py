"""The hooks of zoo-peft: adapters of the peft library as strategies. Importing this module imports no torch."""

from __future__ import annotations

from zoo_registry import PluginInfo, StrategySpec, hookimpl

from zoo_peft.specs import STRATEGIES


@hookimpl
def zoo_plugin() -> PluginInfo:
    """What this plugin is."""
    return PluginInfo(summary="low-rank and other small adapters of the peft library")


@hookimpl
def zoo_strategies() -> tuple[StrategySpec, ...]:
    """``lora``, ``dora``, ``ia3``, ``adalora``."""
    return STRATEGIES
