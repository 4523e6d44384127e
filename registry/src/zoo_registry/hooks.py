"""The hooks of the zoo (pluggy project ``zoo``). Hooks return data; there is no ``register`` callback.

A plugin module decorates its functions with :data:`hookimpl`::

    from zoo_registry import HeadSpec, hookimpl

    @hookimpl
    def zoo_heads() -> list[HeadSpec]:
        return [HeadSpec(name="mine", summary="my head", factory="my_plugin.head:build")]
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from zoo_registry.specs import BackboneSpec, FormatSpec, HeadSpec, PluginInfo, RecipeSpec, StrategySpec, TrackerSpec

PROJECT = "zoo"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def zoo_plugin() -> PluginInfo:  # type: ignore[empty-body]
    """What the plugin is, and the contract version it was built for."""


@hookspec
def zoo_backbones() -> Iterable[BackboneSpec]:  # type: ignore[empty-body]
    """The backbones that the plugin offers."""


@hookspec
def zoo_heads() -> Iterable[HeadSpec]:  # type: ignore[empty-body]
    """The heads that the plugin offers."""


@hookspec
def zoo_strategies() -> Iterable[StrategySpec]:  # type: ignore[empty-body]
    """The strategies that the plugin offers."""


@hookspec
def zoo_recipes() -> Iterable[RecipeSpec]:  # type: ignore[empty-body]
    """The named recipes that the plugin offers."""


@hookspec
def zoo_trackers() -> Iterable[TrackerSpec]:  # type: ignore[empty-body]
    """The trackers that the plugin offers."""


@hookspec
def zoo_formats() -> Iterable[FormatSpec]:  # type: ignore[empty-body]
    """The published forms of other libraries that the plugin reads."""


HOOKS = {
    "zoo_plugin": "plugin",
    "zoo_backbones": "backbone",
    "zoo_heads": "head",
    "zoo_strategies": "strategy",
    "zoo_recipes": "recipe",
    "zoo_trackers": "tracker",
    "zoo_formats": "format",
}
