"""Drawn samples: three classes of 16 x 16 images that a tiny network learns in a few steps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo_registry.conformance.tiny import IMAGE

COUNT = 24
NOISE: Mapping[str, float] = {"eval": 0.0, "train": 0.05, "weak": 0.05, "strong": 0.3}
"""View -> standard deviation of the noise that it adds."""


def generator(*key: Any) -> torch.Generator:
    """A CPU generator that depends on ``key`` alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def images(stream: str) -> tuple[Tensor, Tensor]:
    """Images [24, 3, 16, 16] of stripes across, stripes down and checks, each with noise; labels [24]."""
    labels = torch.arange(COUNT) % 3
    across = (torch.arange(16) % 4 < 2).float()[:, None].expand(16, 16) * 2 - 1
    patterns = torch.stack([across, across.T, across * across.T])
    draw = generator(stream)
    contrast = 0.5 + torch.rand(COUNT, 1, 1, 1, generator=draw)
    noise = 0.3 * torch.randn(COUNT, *IMAGE, generator=draw)
    return patterns[labels][:, None] * contrast + noise, labels


def to_bytes(images: Tensor) -> Tensor:
    """Images as the application's transforms see them: uint8, 0 to 255 for -3 to 3."""
    return ((images / 6 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)


def to_floats(images: Tensor) -> Tensor:
    """The opposite of :func:`to_bytes`, up to rounding."""
    return (images.float() / 255 - 0.5) * 6


def view_transform(view: str) -> Callable[..., Any]:
    """The transform ``(sample, generator) -> sample`` of a view, on uint8 [3, 16, 16]."""

    def transform(sample: Tensor, draw: torch.Generator) -> Tensor:
        if not NOISE[view]:
            return sample
        return to_bytes(to_floats(sample) + NOISE[view] * torch.randn(sample.shape, generator=draw))

    return transform
