"""How an image file becomes pixels: one documented rule per kind of file, the same in training and evaluation.

- EXIF orientation is applied. Animations give their first frame.
- Grey becomes RGB. Palettes are looked up. Alpha (RGBA, LA, transparent palettes) is composited on white.
- CMYK, YCbCr and HSV are converted by Pillow, without colour profile.
- 16 bits a channel (``I;16``, and ``I`` that keeps to 0..65535) are scaled linearly, 0..65535 -> 0..255, rounded;
  never clipped. 32-bit floats within 0..1 are scaled by 255. Wider ranges have no documented scale and are bad.
- JPEG, PNG, WebP, BMP, GIF and TIFF are read, whatever the suffix says; no other of Pillow's readers is ever tried.
- More than :data:`MAX_PIXELS` pixels are refused before any pixel is decoded.
- Where ``short_edge`` is given, which training does and evaluation never, a JPEG whose short edge is 2, 4 or 8 times as
  long is decoded at 1/2, 1/4 or 1/8 of its size (of each 8 x 8 block only the low frequencies are transformed).

A JPEG is decoded by torchvision where that gives Pillow's pixels (:mod:`zoo.data.jpeg`), all else by Pillow.

What cannot be read is a :class:`BadSample` with its reason; nobody puts another sample in its place.
"""

from __future__ import annotations

import io
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data.jpeg import fast_pixels, reduction

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
MAX_PIXELS = 128_000_000
"""Largest image, in pixels: above today's largest photographs, below what hurts (384 MB of RGB)."""


class BadSample(Exception):
    """A sample that cannot be read. ``reason`` is one line without any path."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_image(source: Any, *, max_pixels: int = MAX_PIXELS, short_edge: int | None = None) -> np.ndarray:
    """The pixels of an image.

    Args:
        source: a path, the bytes of a file, a ``PIL.Image``, or an array or tensor (see :func:`array_pixels`).
        max_pixels: refuse images with more pixels.
        short_edge: a JPEG may come smaller, with a short edge of no less than this; None decodes it in full.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        BadSample: it cannot be read.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        return _guarded(_pixels, source, max_pixels)
    if isinstance(source, (str, Path)):
        source = read_bytes(Path(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _guarded(_decode, bytes(source), max_pixels, short_edge)
    return _guarded(array_pixels, source)


def read_bytes(path: Path) -> bytes:
    """The content of a regular file; :class:`BadSample` where it cannot be read (missing, a pipe, no permission)."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadSample("not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise BadSample(error.strerror or type(error).__name__) from error


def _guarded(function: Callable[..., np.ndarray], *arguments: Any) -> np.ndarray:
    """Turn whatever a reader raises into :class:`BadSample`: hostile files make Pillow raise nearly anything."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*arguments)
    except BadSample:
        raise
    except Image.DecompressionBombError as error:
        raise BadSample("too many pixels (decompression bomb)") from error
    except UnidentifiedImageError as error:
        raise BadSample(f"not an image of a known format ({', '.join(FORMATS)})") from error
    except Exception as error:
        raise BadSample(reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """One line that says what a reader raised."""
    text = " ".join(str(error).split())[:200]
    return text.lower() if text and type(error) is OSError else f"{type(error).__name__}: {text}"


def _decode(data: bytes, max_pixels: int, short_edge: int | None) -> np.ndarray:
    from PIL import Image

    if not data:
        raise BadSample("empty file")
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(image, max_pixels)
        if image.format in ("JPEG", "MPO"):
            smaller = reduction(image.height, image.width, short_edge)
            if smaller > 1:
                image.draft(None, (image.width // smaller, image.height // smaller))
            elif (pixels := fast_pixels(image, data)) is not None:
                return pixels
        return _pixels(image, max_pixels)


def _check_size(image: Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise BadSample(f"{image.width} x {image.height} pixels, more than {max_pixels:,} (decompression bomb)")


def _pixels(image: Image, max_pixels: int) -> np.ndarray:
    """The documented rules, on an image that Pillow has opened and perhaps not loaded yet."""
    import numpy as np
    from PIL import ImageOps

    _check_size(image, max_pixels)
    if getattr(image, "is_animated", False):
        image.seek(0)
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = scale_to_bytes(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = _on_white(image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _on_white(image: Image) -> Image:
    from PIL import Image as PillowImage

    if image.mode in ("La", "RGBa"):  # premultiplied alpha has no direct way to RGB
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    layer = image.convert("RGBA")
    return PillowImage.alpha_composite(PillowImage.new("RGBA", layer.size, "white"), layer).convert("RGB")


def scale_to_bytes(values: np.ndarray) -> np.ndarray:
    """Scale one-channel samples of more than 8 bits linearly to 0..255, rounded.

    Integers: 0..65535 -> 0..255. Floats: 0..1 -> 0..255.

    Raises:
        BadSample: values outside of these ranges, or not finite.
    """
    import numpy as np

    if values.size == 0:
        raise BadSample("no pixels")
    low, high = values.min(), values.max()
    if np.issubdtype(values.dtype, np.floating):
        if not (np.isfinite(low) and np.isfinite(high) and low >= 0 and high <= 1):
            raise BadSample(f"floating-point pixels from {low:g} to {high:g}, where 0 to 1 is expected")
        return np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    if low < 0 or high > 65535:
        raise BadSample(f"integer pixels from {low} to {high}, where 0 to 65535 is expected")
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def array_pixels(source: Any) -> np.ndarray:
    """Pixels of an array (``[H, W]``, ``[H, W, C]``) or of a torch tensor (``[H, W]``, ``[C, H, W]``).

    uint8 is taken as it is, floats must lie in 0..1, 16-bit integers are scaled; one channel becomes three.

    Returns:
        uint8 [H, W, C]; C is 3, or what the source has beyond that.
    """
    import numpy as np

    tensor = hasattr(source, "detach")
    values = source.detach().cpu().numpy() if tensor else np.asarray(source)
    if values.dtype == object or values.ndim not in (2, 3):
        raise BadSample(f"a {type(source).__name__} is not an image")
    if values.ndim == 2:
        values = values[:, :, None]
    elif tensor:
        values = values.transpose(1, 2, 0)
    if values.size == 0:
        raise BadSample("no pixels")
    if values.dtype != np.uint8:
        values = scale_to_bytes(values)
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else np.array(values, order="C")
