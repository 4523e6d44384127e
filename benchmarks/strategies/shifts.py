"""Fixed, deterministic shifts of the test digits: what the model meets that its training images did not show.

Each takes uint8 images [N, S, S], white ink on black, and gives as many back. Image i is always changed in the same
way, in every run and for every strategy: what is random is drawn once, from a seed that stands here. How strong they
are was set on the validation digits, so that plain fine-tuning gets most of them right, but by no means all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

Images = np.ndarray

NOISE = 40.0
"""Deviation of the Gaussian noise, of 255, in blocks of two pixels."""
DEGREES = 30.0
"""Turn: every second image to the left, the others to the right."""
THICKEN, THIN = 11, 7
"""Side in pixels of the square over which every second stroke takes the maximum, the others the minimum."""
CONTRAST, FLOOR = 0.15, 100
"""What is left of the ink's contrast, and the grey of the paper."""


def noise(images: Images) -> Images:
    """Gaussian noise, in blocks of 2 x 2 pixels."""
    count, size = len(images), images.shape[-1]
    coarse = np.random.default_rng(20).normal(0.0, NOISE, (count, (size + 1) // 2, (size + 1) // 2))
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2)[:, :size, :size]
    return np.clip(images + fine, 0, 255).astype(np.uint8)


def rotation(images: Images) -> Images:
    """Turned about the middle, every second image the other way."""
    turned = [_turn(image, DEGREES if i % 2 else -DEGREES) for i, image in enumerate(images)]
    return np.stack(turned)


def _turn(image: np.ndarray, degrees: float) -> np.ndarray:
    return np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR))


def stroke(images: Images) -> Images:
    """A broader pen on every second image, a finer one on the others."""
    broad = ndimage.maximum_filter(images[0::2], (1, THICKEN, THICKEN))
    fine = ndimage.minimum_filter(images[1::2], (1, THIN, THIN))
    out = np.empty_like(images)
    out[0::2], out[1::2] = broad, fine
    return out


def contrast(images: Images) -> Images:
    """Little contrast on grey paper."""
    return np.rint(FLOOR + CONTRAST * images).astype(np.uint8)


SHIFTS: dict[str, Callable[[Images], Images]] = {
    "noise": noise,
    "rotation": rotation,
    "stroke": stroke,
    "contrast": contrast,
}
