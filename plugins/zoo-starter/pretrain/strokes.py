"""Invented characters: three to five strokes each, bent and moved a little every time, as a hand would.

A class is a fixed set of control points of quadratic curves; an instance shifts each of them. What an alphabet cannot
give - variation in the writing itself - comes from here. The idea of invented signs as a pretext is Omniglot's
(Lake, Salakhutdinov, Tenenbaum 2015); none of its images is used.
"""

from __future__ import annotations

import torch
from torch import Tensor

STROKES = 5
SAMPLES = 14
GRID = 32


def invent(classes: int, generator: torch.Generator) -> Tensor:
    """Control points [classes, 5 strokes, 3 points, 2] in -1..1; unused strokes (at most two) are NaN.

    A stroke usually starts near an end of the one before, so that characters hang together. With at least three long
    strokes they are busier than any digit.
    """
    points = torch.rand(classes, STROKES, 3, 2, generator=generator) * 1.7 - 0.85
    chained = torch.rand(classes, STROKES - 1, generator=generator) < 0.7
    for k in range(1, STROKES):
        points[:, k, 0] = torch.where(chained[:, k - 1, None], points[:, k - 1, 2], points[:, k, 0])
    straight = torch.rand(classes, STROKES, generator=generator) < 0.4
    middle = (points[:, :, 0] + points[:, :, 2]) / 2
    points[:, :, 1] = torch.where(straight[..., None], middle, points[:, :, 1])
    count = torch.randint(3, STROKES + 1, (classes,), generator=generator)
    unused = torch.arange(STROKES)[None] >= count[:, None]
    return points.masked_fill(unused[..., None, None], float("nan"))


def draw(points: Tensor, width: Tensor, generator: torch.Generator, jitter: float = 0.13) -> Tensor:
    """Masks [B, 1, 32, 32] in 0..1 of characters ``points`` [B, 5, 3, 2] with pen ``width`` [B] (1 = half the page)."""
    moved = points + jitter * torch.randn(points.shape, generator=generator)
    t = torch.linspace(0, 1, SAMPLES)[:, None]
    curve = (1 - t) ** 2 * moved[:, :, None, 0] + 2 * t * (1 - t) * moved[:, :, None, 1] + t**2 * moved[:, :, None, 2]
    dots = curve.flatten(1, 2).nan_to_num(nan=9.0)
    axis = torch.linspace(-1, 1, GRID)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(1, -1, 2)
    distance = torch.cdist(grid.expand(len(dots), -1, -1), dots).amin(2)
    return ((width[:, None] - distance) * GRID / 2 + 0.5).clamp(0, 1).view(-1, 1, GRID, GRID)
