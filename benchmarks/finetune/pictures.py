"""A folder of photo-like JPEGs in ten classes, with ``train`` and ``val``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10
SIZE = (500, 375)


def picture(label: int, seed: int) -> Image.Image:
    """Smooth noise over several scales, tinted by class: at quality 90 about 2 bits a pixel, as photographs have."""
    rng = np.random.default_rng((label, seed))
    width, height = SIZE
    pixels = np.zeros((height, width, 3), np.float32)
    pixels += 128 + 40 * np.cos(np.array([0.0, 2.1, 4.2], np.float32) + 2 * np.pi * label / CLASSES)
    for cells, strength in ((6, 40), (24, 18), (80, 9), (220, 5)):
        grid = rng.normal(0, strength, (max(2, cells * height // width), cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(grid[..., channel]).resize(SIZE, Image.Resampling.BICUBIC)
            pixels[..., channel] += np.asarray(layer)
    pixels += rng.normal(0, 2.5, (height, width, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_folder(root: Path, train: int, val: int) -> Path:
    """``root/train/CLASS/N.jpg`` and ``root/val/CLASS/N.jpg``; drawn once."""
    for split, count, first in (("train", train, 0), ("val", val, 10**6)):
        for number in range(count):
            label = number % CLASSES
            path = root / split / f"class{label}" / f"{number}.jpg"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                picture(label, first + number).save(path, quality=90)
    return root
