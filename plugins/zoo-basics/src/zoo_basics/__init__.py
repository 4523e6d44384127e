"""The hooks of zoo-basics: heads and strategies that need torch alone. Importing this module imports no torch."""

from __future__ import annotations

from zoo_registry import HeadSpec, PluginInfo, StrategySpec, hookimpl

from zoo_basics.specs import HEADS, STRATEGIES


@hookimpl
def zoo_plugin() -> PluginInfo:
    """What this plugin is."""
    return PluginInfo(summary="heads and strategies that need torch alone")


@hookimpl
def zoo_heads() -> tuple[HeadSpec, ...]:
    """``linear``, ``mlp``, ``cosine``, ``prototype``, ``multilabel``, ``regression``."""
    return HEADS


@hookimpl
def zoo_strategies() -> tuple[StrategySpec, ...]:
    """``full``, ``linear``, ``partial``, ``fit``."""
    return STRATEGIES
