"""Every timm architecture and pretrained tag as a backbone of the zoo, namespace ``timm``.

Listing reads a catalogue file and imports neither torch nor timm.
"""

from __future__ import annotations

from typing import Any

from zoo_registry import BackboneSpec, FormatSpec, PluginInfo, hookimpl

SAMPLE: dict[str, Any] = {
    "architecture": "resnet18",
    "num_classes": 2,
    "label_names": ["cat", "dog"],
    "model_args": {"in_chans": 1, "global_pool": "avg", "img_size": 64},
    "pretrained_cfg": {
        "input_size": [1, 64, 64],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5],
        "std": [0.25],
        "num_classes": 2,
        "classifier": "fc",
    },
}
"""A ``config.json`` as timm writes it."""


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


@hookimpl
def zoo_formats() -> list[FormatSpec]:
    """What timm's ``push_to_hf_hub`` and transformers' ``TimmWrapper`` write."""
    return [
        FormatSpec(
            name="timm",
            summary="repos that timm or transformers' TimmWrapper pushed",
            factory="zoo_timm.reading:read",
            extra={"sample": SAMPLE},
        )
    ]
