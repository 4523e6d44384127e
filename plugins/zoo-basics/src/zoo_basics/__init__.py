"""The hooks of zoo-basics: heads and strategies that need torch alone. Importing this module imports no torch."""

from __future__ import annotations

from zoo_registry import HeadSpec, PluginInfo, RecipeSpec, StrategySpec, hookimpl

from zoo_basics.specs import HEADS, RECIPES, STRATEGIES


@hookimpl
def zoo_plugin() -> PluginInfo:
    """What this plugin is."""
    return PluginInfo(summary="heads and strategies that need torch alone")


@hookimpl
def zoo_heads() -> tuple[HeadSpec, ...]:
    """``linear``, ``mlp``, ``cosine``, ``prototype``, ``ridge``, ``knn``, ``attention``, ``multilabel``, ``ordinal``,
    ``regression``, ``multi-task``.
    """
    return HEADS


@hookimpl
def zoo_strategies() -> tuple[StrategySpec, ...]:
    """What learns: ``full``, ``linear``, ``partial``, ``gradual``, ``bitfit``, ``norm``, ``fit``, and at which rates:
    ``llrd``; penalties ``l2-sp``, ``delta``, ``bss``, ``distill``, ``sam``; and those of :mod:`zoo_basics.specs`.
    """
    return STRATEGIES


@hookimpl
def zoo_recipes() -> tuple[RecipeSpec, ...]:
    """Phases of strategies under one name: ``lp-ft``..."""
    return RECIPES
