"""Resizing, cropping and channels of uint8 images [C, H, W].

Evaluation resizes by Pillow itself, so that its pixels are timm's; training may take torch's faster filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad
from zoo_registry.errors import UsageError

MAX_ASPECT = 32
"""Longer images keep their middle only: scaling the short edge of a 1 x 60,000 image up would fill the memory."""


def to_channels(image: Tensor, channels: int) -> Tensor:
    """The image with ``channels`` channels: RGB to grey by ITU-R 601 luma as Pillow rounds it, grey to RGB by copying.

    Raises:
        UsageError: no rule for these numbers.
    """
    have = image.shape[0]
    if have == channels:
        return image
    if have == 3 and channels == 1:
        red, green, blue = image.to(torch.int32)
        return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)[None]
    if have == 1:
        return image.expand(channels, -1, -1)
    raise UsageError(
        f"images with {have} channels do not fit a model of {channels}", hint=f"build the model with --in-chans {have}"
    )


FILTERS = ("bilinear", "bicubic", "nearest", "lanczos", "hamming", "box")


def resize(image: Tensor, size: Sequence[int], interpolation: str, *, exact: bool = True) -> Tensor:
    """Resize to ``size`` (height, width), antialiased.

    Exact means by Pillow. Otherwise bilinear and bicubic run in torch on uint8: two to three times as fast, within one
    level of Pillow nearly everywhere and two in about one bicubic value of 100,000.

    Raises:
        UsageError: unknown interpolation.
    """
    if interpolation not in FILTERS:
        raise UsageError(f"unknown interpolation {interpolation!r}", hint=f"one of {', '.join(FILTERS)}")
    height, width = (max(1, int(s)) for s in size)
    if (height, width) == tuple(image.shape[-2:]):
        return image
    if exact or interpolation not in ("bilinear", "bicubic"):
        return _resize_by_pillow(image, (width, height), interpolation)
    batch = image[None].contiguous(memory_format=torch.channels_last)  # a part of an image would take the slow way
    return interpolate(batch, (height, width), mode=interpolation, antialias=True, align_corners=False)[0]


def _resize_by_pillow(image: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    resample = Image.Resampling[interpolation.upper()]
    if image.shape[0] == 3:
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        return torch.from_numpy(np.array(Image.fromarray(pixels).resize(size, resample))).permute(2, 0, 1)
    planes = [Image.fromarray(plane.contiguous().numpy()).resize(size, resample) for plane in image]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))


def resize_short_edge(image: Tensor, size: Sequence[int], interpolation: str) -> Tensor:
    """Resize so that the image just covers ``size``, keeping its aspect ratio.

    For a square size the long edge is rounded down as torchvision does, else both are rounded, as timm does.
    """
    image = _bounded(image)
    height, width = image.shape[-2:]
    if size[0] == size[1]:
        short, long = min(height, width), max(height, width)
        other = int(size[0] * long / short)
        return resize(image, (size[0], other) if height <= width else (other, size[0]), interpolation)
    ratio = min(height / size[0], width / size[1])
    return resize(image, (round(height / ratio), round(width / ratio)), interpolation)


SPARE = 1.5
"""An image that is not more than so many times as large as it must be is left as it is."""


def shrink(pixels: Any, short_edge: int) -> Any:
    """A uint8 image [H, W, C] brought to ``short_edge`` where it is more than :data:`SPARE` times as large.

    Bilinear, antialiased. What is no such array comes back as it is.
    """
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3:
        return pixels
    height, width = pixels.shape[:2]
    short = min(height, width)
    if short <= SPARE * short_edge:
        return pixels
    size = (round(height * short_edge / short), round(width * short_edge / short))
    image = resize(torch.from_numpy(pixels).permute(2, 0, 1), size, "bilinear", exact=False)
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def resize_long_edge(image: Tensor, size: Sequence[int], interpolation: str) -> Tensor:
    """Resize so that the image just fits into ``size``, keeping its aspect ratio."""
    height, width = image.shape[-2:]
    ratio = max(height / size[0], width / size[1])
    return resize(image, (round(height / ratio), round(width / ratio)), interpolation)


def _bounded(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    limit = MAX_ASPECT * min(height, width)
    return image if max(height, width) <= limit else center_crop(image, (min(height, limit), min(width, limit)))


def center_crop(image: Tensor, size: Sequence[int], fill: Sequence[int] = (0,)) -> Tensor:
    """The middle of the image, padded with ``fill`` (a value per channel) where it is smaller than ``size``."""
    height, width = image.shape[-2:]
    down, across = max(0, size[0] - height), max(0, size[1] - width)
    if down or across:
        borders = (across // 2, (across + 1) // 2, down // 2, (down + 1) // 2)
        colours = [fill[c % len(fill)] for c in range(image.shape[0])]
        image = torch.stack([pad(plane, borders, value=v) for plane, v in zip(image, colours)])
        height, width = image.shape[-2:]
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return image[:, top : top + size[0], left : left + size[1]]
