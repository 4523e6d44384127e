"""Which compute paths are worth a look for a model on a device."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import torch
from torch import nn

from zoo.compute.path import FORMATS, ComputePath, has_fast_bf16, open_choices, path_of
from zoo.recipe.recipe import AUTO, TrainOptions

CONVOLUTIONS = 2
"""A model with fewer has at most one that cuts the image into patches, which no memory format speeds up."""


def candidates(options: TrainOptions, backbone: nn.Module, device: torch.device) -> list[ComputePath]:
    """Memory formats and precisions to compare, the plainest first; what the options name is not varied.

    Nothing is compiled in them: that is tried on the best one alone.
    """
    base = path_of(options, device)
    precisions = list(_precisions(device)) if options.precision == AUTO else [options.precision]
    formats = [name for name in FORMATS if name == "contiguous" or has_convolutions(backbone)]
    if options.memory_format != AUTO:
        formats = [options.memory_format]
    return [
        ComputePath(precision=precision, memory_format=memory_format, fused=base.fused)
        for precision, memory_format in product(precisions, formats)
    ]


def may_vary(options: TrainOptions, device: torch.device) -> bool:
    """Whether anything is left to choose there."""
    return bool(open_choices(options)) and device.type in ("cpu", "cuda")


def has_convolutions(backbone: nn.Module) -> bool:
    """Whether the backbone has convolutions of images enough that their memory format matters."""
    found = [m for m in backbone.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    return len(found) >= CONVOLUTIONS


def _precisions(device: torch.device) -> tuple[str, ...]:
    fast = has_fast_bf16(device)
    if device.type == "cuda":
        return ("float32", "tf32", "bf16") if fast else ("float32",)
    return ("float32", "bf16") if fast else ("float32",)


def plainest(seconds: Mapping[ComputePath, float], tolerance: float, between_formats: float = 1.02) -> ComputePath:
    """The plainest precision that is within ``tolerance`` of the fastest (1.05 for 5 %), in its fastest memory format.

    A memory format changes no number but in the last bits, so there ``between_formats`` is enough.
    """
    least = min(seconds.values())
    precision = next(path.precision for path, time in seconds.items() if time <= tolerance * least)
    alike = {path: time for path, time in seconds.items() if path.precision == precision}
    least = min(alike.values())
    return next(path for path, time in alike.items() if time <= between_formats * least)
