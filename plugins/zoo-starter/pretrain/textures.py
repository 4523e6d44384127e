"""Formula textures, 24 classes: so that the networks know surfaces and contours too, and are no mere letter readers.

Radial contours after Kataoka et al. 2022 (arXiv 2206.09132), waves, rings, checks, cells and noise of several spectra.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CLASSES = 24
_KINDS = 6


def draw(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Masks [B, 1, size, size] in 0..1 for classes ``labels`` [B] (0 to 23): kind = label // 4, then a degree."""
    out = torch.empty(len(labels), 1, size, size)
    x, y = _turned_axes(len(labels), size, generator)
    kind, degree = labels // 4, labels % 4
    for k, field in enumerate((_waves, _rings, _contours, _checks, _cells, _noise)):
        at = torch.nonzero(kind == k).flatten()
        if len(at):
            out[at, 0] = field(x[at], y[at], degree[at].float()[:, None, None], generator)
    return out


def _turned_axes(count: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Coordinates of every pixel, each picture turned and shifted its own way: two [B, size, size], about -1..1."""
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle = (torch.rand(count, 1, 1, generator=generator) * 2 - 1) * math.pi
    shift = torch.rand(2, count, 1, 1, generator=generator) * 0.5 - 0.25
    return x * angle.cos() - y * angle.sin() + shift[0], x * angle.sin() + y * angle.cos() + shift[1]


def _uniform(like: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(like.shape[0], 1, 1, generator=generator)


def _waves(x: Tensor, y: Tensor, degree: Tensor, generator: torch.Generator) -> Tensor:
    pitch = math.pi * 2**degree * _uniform(x, 1.6, 2.4, generator)
    bend = _uniform(x, 0.0, 0.15, generator) * (3 * y).sin()
    return 0.5 + 0.5 * (pitch * (x + bend)).sin()


def _rings(x: Tensor, y: Tensor, degree: Tensor, generator: torch.Generator) -> Tensor:
    radius = (x**2 + _uniform(x, 0.6, 1.6, generator) * y**2).sqrt()
    arms = torch.where(degree >= 2, 1.0 + 2 * (degree - 2), torch.zeros_like(degree))
    turns = torch.where(degree >= 2, torch.full_like(degree, 8.0), 10.0 + 12.0 * degree)
    return 0.5 + 0.5 * (turns * _uniform(x, 0.85, 1.15, generator) * radius + arms * torch.atan2(y, x)).sin()


def _contours(x: Tensor, y: Tensor, degree: Tensor, generator: torch.Generator) -> Tensor:
    """Nested closed contours with 3, 5, 8 or 12 corners each."""
    corners = torch.tensor([3.0, 5.0, 8.0, 12.0])[degree.long()]
    wobble = 1 + _uniform(x, 0.15, 0.3, generator) * (corners * torch.atan2(y, x)).cos()
    level = (x**2 + y**2).sqrt() / wobble * _uniform(x, 4, 7, generator)
    return (1 - ((level % 1) - 0.5).abs() * 6).clamp(0, 1)


def _checks(x: Tensor, y: Tensor, degree: Tensor, generator: torch.Generator) -> Tensor:
    pitch = math.pi * (1.5 + 1.5 * (degree % 2)) * _uniform(x, 0.9, 1.3, generator) * 1.5
    product = (pitch * x).sin() * (pitch * y).sin()
    dots = (product * 4 - 1).clamp(0, 1)
    return torch.where(degree >= 2, dots, (product * 8 + 0.5).clamp(0, 1))


def _cells(x: Tensor, y: Tensor, degree: Tensor, generator: torch.Generator) -> Tensor:
    """Cells of Worley's basis function (1996): 6 or 18 seeds; their distance field or their walls."""
    seeds = torch.rand(x.shape[0], 18, 1, 1, 2, generator=generator) * 2.6 - 1.3
    distance = (x[:, None] - seeds[..., 0]) ** 2 + (y[:, None] - seeds[..., 1]) ** 2
    few = (torch.arange(18)[None, :, None, None] >= 6) & (degree[:, None] % 2 == 0)
    near = distance.sqrt().masked_fill(few, 9.0).topk(2, dim=1, largest=False).values
    return torch.where(degree >= 2, (1 - 8 * (near[:, 1] - near[:, 0])).clamp(0, 1), (1.8 * near[:, 0]).clamp(0, 1))


def _noise(x: Tensor, y: Tensor, degree: Tensor, generator: torch.Generator) -> Tensor:
    """Noise with spectra 1/f^0, 1/f^0.7, 1/f^1.4, 1/f^2.1."""
    white = torch.randn(x.shape, generator=generator)
    size = x.shape[-1]
    f = (torch.fft.fftfreq(size)[:, None] ** 2 + torch.fft.rfftfreq(size)[None] ** 2).sqrt()
    f[0, 0] = 1 / size
    field = torch.fft.irfft2(torch.fft.rfft2(white) * f[None] ** (-0.7 * degree), s=(size, size))
    return (0.5 + 0.2 * field / field.std(dim=(1, 2), keepdim=True)).clamp(0, 1)
