"""Images and folders drawn for the tests of the data package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def photo(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    """A smooth uint8 [H, W, 3] picture with some noise: what resizing and JPEG are made for."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(6 * (x * rng.uniform(0.5, 2) + y * rng.uniform(0.5, 2) + rng.uniform(0, 6))) for _ in range(3)]
    noise = rng.normal(0, 8, (height, width, 3))
    return (127 + 100 * np.stack(waves, axis=2) + noise).clip(0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray | None = None, seed: int = 0) -> Path:
    """Save pixels (a small photo by default) as the suffix says, making folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(12, 16, seed) if pixels is None else pixels).save(path)
    return path


def folder(root: Path, counts: dict[str, int], suffix: str = ".png") -> Path:
    """``root/CLASS/0.png...`` with so many distinct images a class; a class may be nested (``train/cat``)."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            save(root / name / f"{i}{suffix}", seed=1000 * number + i)
    return root


def png_header(width: int, height: int) -> bytes:
    """The start of a PNG that claims a size: signature, IHDR and an IDAT of a few bytes."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )
