"""Batched distortions in plain torch: shape, pen, resolution, ink and paper. One call turns masks into RGB pictures.

Every random number comes from the generator given, so that (seed, step) decides a batch to the bit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: The widths in pixels that pictures are squeezed to before they are blown up again; 8 is what the digits have.
RESOLUTIONS = (8, 8, 8, 10, 12, 16, 24, 64)


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """[count] numbers, even between ``low`` and ``high``."""
    return low + (high - low) * torch.rand(count, generator=generator)


def warp(masks: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Affine and elastic: masks [B, 1, h, w] in 0..1 -> [B, 1, size, size].

    Turn up to 20 degrees (deviation 10), shear, stretch each way 0.7 to 1.3, shift, and a smooth displacement field on
    a 4 x 4 net (elastic distortion: Simard, Steinkraus, Platt 2003).
    """
    count = len(masks)
    angle = (torch.randn(count, generator=generator) * 0.17).clamp(-0.35, 0.35)
    shear = torch.randn(count, generator=generator) * 0.2
    grow_x, grow_y = (1 / uniform(count, low, 1.3, generator) for low in (0.7, 0.9))
    cos, sin = angle.cos(), angle.sin()
    shift = torch.randn(2, count, generator=generator) * 0.06
    rows = torch.stack([grow_x * cos, grow_x * (shear * cos - sin), shift[0]], 1)
    matrix = torch.stack([rows, torch.stack([grow_y * sin, grow_y * (shear * sin + cos), shift[1]], 1)], 1)
    grid = F.affine_grid(matrix, [count, 1, size, size], align_corners=False)
    strength = uniform(count, 0.0, 0.16, generator)[:, None, None, None]
    field = F.interpolate(torch.randn(count, 2, 4, 4, generator=generator) * strength, size=size, mode="bicubic")
    return F.grid_sample(masks, grid + field.permute(0, 2, 3, 1), align_corners=False)


def pen(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Thicken (maximum over 3, 5 or 7 pixels), thin (minimum over 3) or leave each eighth of the batch."""
    parts = []
    for part in masks.chunk(8):
        choice = int(torch.randint(0, 6, (), generator=generator))
        if choice in (1, 2, 3):
            part = F.max_pool2d(part, 2 * choice + 1, 1, choice)
        elif choice == 4:
            part = torch.maximum(-F.max_pool2d(-part, 3, 1, 1), 0.4 * part)
        parts.append(part)
    return torch.cat(parts)


def squeeze(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Average each eighth of the batch down to one of ``RESOLUTIONS``, then blow it up by one of three filters."""
    parts, size = [], masks.shape[-1]
    for part in masks.chunk(8):
        width = RESOLUTIONS[int(torch.randint(0, len(RESOLUTIONS), (), generator=generator))]
        mode = ("bilinear", "bicubic", "bicubic", "nearest")[int(torch.randint(0, 4, (), generator=generator))]
        if width < size:
            small = F.interpolate(part, size=width, mode="area")
            part = F.interpolate(small, size=size, mode=mode).clamp(0, 1)
        parts.append(part)
    return torch.cat(parts)


def ink(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Masks [B, 1, s, s] -> RGB [B, 3, s, s] in 0..1: grey or coloured ink on paper, shade, noise, either polarity."""
    count, size = len(masks), masks.shape[-1]
    gamma = torch.exp(torch.randn(count, generator=generator) * 0.3)[:, None, None, None]
    masks = (masks / masks.amax((2, 3), keepdim=True).clamp_min(0.25)).clamp(1e-4, 1) ** gamma
    grey = torch.rand(count, generator=generator) < 0.6
    dark, light = (torch.rand(count, 3, generator=generator) for _ in range(2))
    dark = torch.where(grey[:, None], dark[:, :1] * 0.25, dark)
    light = torch.where(grey[:, None], 1 - light[:, :1] * 0.4, light)
    close = ((dark - light).mean(1).abs() < 0.25)[:, None]
    dark, light = torch.where(close, dark * 0.3, dark), torch.where(close, 0.7 + 0.3 * light, light)
    swap = (torch.rand(count, generator=generator) < 0.3)[:, None]
    paper, colour = torch.where(swap, light, dark)[..., None, None], torch.where(swap, dark, light)[..., None, None]
    shade = torch.randn(count, 1, 3, 3, generator=generator) * uniform(count, 0, 0.12, generator)[:, None, None, None]
    picture = torch.lerp(paper, colour, masks)
    picture += F.interpolate(shade, size=size, mode="bilinear", align_corners=True)
    noise = uniform(count, 0, 0.06, generator)[:, None, None, None]
    picture += noise * torch.randn(count, 1, size, size, generator=generator)
    return picture.clamp_(0, 1)
