"""Every timm architecture and pretrained tag as a backbone of the zoo, namespace ``timm``.

Listing reads a catalogue file and imports neither torch nor timm.
"""

from __future__ import annotations

from zoo_registry import BackboneSpec, PluginInfo, hookimpl


@hookimpl
def zoo_plugin() -> PluginInfo:
    """What this plugin is."""
    return PluginInfo(
        summary="every timm architecture and pretrained tag",
        url="https://huggingface.co/docs/timm",
    )


@hookimpl
def zoo_backbones() -> list[BackboneSpec]:
    """One backbone for each row of the catalogue."""
    from zoo_timm.catalogue import read_catalogue

    return read_catalogue()
