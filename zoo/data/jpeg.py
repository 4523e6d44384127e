"""JPEG by libjpeg-turbo through torchvision's operator: the pixels of Pillow, in less time.

Pillow reads the header and decides; what is decoded here is what was proved equal (tests/test_data_jpeg.py): 8 bits,
one or three components, baseline or progressive, with an end marker. Everything else is Pillow's, and so is a file
that the operator refuses: Pillow then says what is wrong with it.

The operator is loaded from torchvision's shared library alone (14 ms); ``import torchvision`` takes seconds. Where it
is missing (a torchvision without it, another ABI), where one of the two was not built with libjpeg-turbo, or where
they differ on a drawn probe, Pillow decodes.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

log = logging.getLogger("zoo.data")

END = b"\xff\xd9"
LIBRARIES = ("image_stable.so", "image.so", "image_stable.pyd", "image.pyd")
"""File names of the library, the newest torchvision's first."""
RGB = 3
"""torchvision's number for three channels."""
REDUCTIONS = (8, 4, 2)
"""Denominators of the sizes that a JPEG's blocks can be decoded at in place of the full one."""
ORIENTATION = 0x0112


def reduction(height: int, width: int, short_edge: int | None) -> int:
    """The largest denominator (1, 2, 4, 8) that leaves the short edge at ``short_edge`` pixels or more; None: 1."""
    if short_edge is None:
        return 1
    return next((r for r in REDUCTIONS if min(height, width) >= r * short_edge), 1)


def fast_pixels(image: Image, data: bytes) -> np.ndarray | None:
    """Pixels, upright, of a JPEG that Pillow has opened and not loaded.

    Returns:
        uint8 [H, W, 3] in memory of its own; None where Pillow is to decode.
    """
    if image.format != "JPEG" or image.mode not in ("RGB", "L") or not data.endswith(END):
        return None
    decode = operator()
    if decode is None:
        return None
    pixels = _decoded(decode, data)
    if pixels is None or pixels.shape != (image.height, image.width, 3):
        return None
    return upright(pixels, _orientation(image))


def operator() -> Callable[..., Any] | None:
    """torchvision's ``decode_jpeg``, or None where it cannot be had or cannot be trusted.

    Only where torch is imported already: who decodes without it would wait for it longer than for Pillow.
    """
    return _checked() if "torch" in sys.modules else None


@cache
def _checked() -> Callable[..., Any] | None:
    found = _load()
    if found is None:
        return None
    for probe in _probes():
        expected = _by_pillow(probe)
        pixels = _decoded(found, probe)
        if pixels is None or pixels.shape != expected.shape or (pixels != expected).any():
            log.debug("torchvision decodes JPEG to other pixels than Pillow: Pillow decodes")
            return None
    return found


def _load() -> Callable[..., Any] | None:
    from importlib.util import find_spec

    from PIL import features

    if not features.check("libjpeg_turbo"):
        return None
    try:
        import torch

        package = find_spec("torchvision")
        folders = (package.submodule_search_locations or []) if package else []
        paths = (os.path.join(folder, name) for folder in folders for name in LIBRARIES)
        torch.ops.load_library(next(path for path in paths if os.path.isfile(path)))
        turbo = torch.ops.image._is_compiled_against_turbo()
        return torch.ops.image.decode_jpeg.default if turbo else None
    except (StopIteration, OSError, RuntimeError, AttributeError, ValueError) as error:
        log.debug("no JPEG decoder from torchvision (%s): Pillow decodes", error)
        return None


def available() -> bool:
    """Whether JPEG files are decoded here."""
    return operator() is not None


def _decoded(decode: Callable[..., Any], data: bytes) -> np.ndarray | None:
    import numpy as np
    import torch

    content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        with quiet_worker():
            found = decode(content, RGB, False)
    except RuntimeError:
        return None
    pixels: np.ndarray = found.permute(1, 2, 0).numpy()
    return np.ascontiguousarray(pixels)


@contextmanager
def quiet_worker() -> Iterator[None]:
    """In a data worker, what libjpeg prints about damaged files goes nowhere, as with Pillow.

    Only there: the process has one thread that writes to the standard error stream.
    """
    from torch.utils.data import get_worker_info

    if get_worker_info() is None:
        yield
        return
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _by_pillow(data: bytes) -> np.ndarray:
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return np.array(image.convert("RGB"))


def _probes() -> list[bytes]:
    """A drawn picture of an odd size under each chroma subsampling, progressive, and grey."""
    import numpy as np
    from PIL import Image

    y, x, c = np.mgrid[0:37, 0:45, 0:3]
    image = Image.fromarray(((x * (5 + c) + y * (7 - 2 * c) + (x * y * (c + 1)) // 9) % 256).astype(np.uint8))
    return [
        *(_jpeg(image, subsampling=s) for s in (0, 1, 2)),
        _jpeg(image, subsampling=2, progressive=True),
        _jpeg(image.convert("L")),
    ]


def _jpeg(image: Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def _orientation(image: Image) -> int:
    """As ``PIL.ImageOps.exif_transpose`` finds it; looked for only where there is EXIF or XMP."""
    if not image.info.keys() & {"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"}:
        return 1
    found = image.getexif().get(ORIENTATION, 1)
    return found if found in range(2, 9) else 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [H, W, C] turned as an EXIF orientation (1 to 8) asks for, in memory of their own where they are turned.

    Orientations 5 to 8 exchange height and width (Exif 2.32, tag 274).
    """
    import numpy as np

    if orientation == 1:
        return pixels
    turned = pixels.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else pixels
    down = orientation in (3, 4, 7, 8)
    across = orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(turned[:: -1 if down else 1, :: -1 if across else 1])
