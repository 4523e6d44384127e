"""Two small backbones, pretrained on drawings, with their weights in this package; namespace ``starter``.

They are timm's architectures, so the module, its blocks and its export are those of ``zoo_timm``.
"""

from __future__ import annotations

from zoo_registry import BackboneSpec, PluginInfo, hookimpl


@hookimpl
def zoo_plugin() -> PluginInfo:
    """What this plugin is."""
    return PluginInfo(summary="two small backbones pretrained on drawings, weights included")


@hookimpl
def zoo_backbones() -> list[BackboneSpec]:
    """``starter/cnn`` and ``starter/vit``."""
    from zoo_starter.specs import backbones

    return backbones()
