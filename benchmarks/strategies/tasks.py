"""The tasks: what is learnt from, and what it is tested on. Everything is there without a download.

A task draws its training images by seed, the same for every strategy (paired draws). The test is fixed. ``val`` is
another fixed set on which rates and options are tuned (``tune.py``) and which no table shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import signs
from PIL import Image
from shifts import SHIFTS
from sklearn.datasets import load_digits

SIZE = 64
"""Side of the images in pixels, the starters' own; at 48 and less they lose several points."""
TEST, VAL = 60, 27
"""Digits a class in the fixed test and validation sets; the rest, 87 or more a class, is what training draws from."""
SHIFTED = 400
"""Test digits that are shifted too."""
LABELS = (1, 2, 5, 10, 20)
WITH_SHIFTS = 10
"""The number of labels a class of the runs that are tested shifted too."""
LONG_TAIL = (60, 2)
"""Labels of the most and of the least frequent class; geometric in between (Cao et al. 2019, arXiv 1906.07413)."""
GLYPHS = {"train": 3, "val": 5, "test": 10}
"""Drawings of each sign."""


@dataclass(frozen=True, eq=False)
class Images:
    """A map-style dataset of (image uint8 [64, 64], class), with ``targets`` and ``classes`` as torchvision's have."""

    images: np.ndarray
    targets: list[int]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], self.targets[index]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One draw of a task.

    Attributes:
        splits: ``train``, ``val`` and ``test``.
        shifted: name of a shift -> images in place of the first ones of ``test``.
    """

    splits: Mapping[str, Images]
    shifted: Mapping[str, np.ndarray] = field(default_factory=dict)


@cache
def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """scikit-learn's 1,797 digits, blown up: part (``test val pool``) -> uint8 images [N, 64, 64] and classes."""
    pixels, labels = load_digits(return_X_y=True)
    grey = np.rint(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(g).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for g in grey])
    order = np.random.default_rng(7).permutation(len(labels))
    parts: dict[str, list[np.ndarray]] = {"test": [], "val": [], "pool": []}
    for digit in range(10):
        rows = order[labels[order] == digit]
        for part, chosen in zip(parts, np.split(rows, [TEST, TEST + VAL])):
            parts[part].append(chosen)
    # Shuffled once, so that the first images of a part hold all classes.
    mixed = {part: np.random.default_rng(8).permutation(np.concatenate(rows)) for part, rows in parts.items()}
    return {part: (large[rows], labels[rows]) for part, rows in mixed.items()}


def few_digits(counts: Mapping[int, int], seed: int, *, shifted: bool = False) -> Draw:
    """``counts[digit]`` labelled images of each digit, drawn by ``seed``."""
    parts = digits()
    images, labels = parts["pool"]
    order = np.random.default_rng(seed).permutation(len(labels))
    rows = np.concatenate([order[labels[order] == digit][:count] for digit, count in counts.items()])
    names = tuple(map(str, range(10)))
    splits = {"train": (images[rows], labels[rows]), "val": parts["val"], "test": parts["test"]}
    made = {name: Images(pixels, classes.tolist(), names) for name, (pixels, classes) in splits.items()}
    return Draw(splits=made, shifted=_shifted() if shifted else {})


@cache
def _shifted() -> dict[str, np.ndarray]:
    clean = digits()["test"][0][:SHIFTED]
    return {name: shift(clean) for name, shift in SHIFTS.items()}


def long_tail(seed: int) -> dict[int, int]:
    """Digit -> labels, from 60 down to 2; which digit is rare is drawn by ``seed``."""
    most, least = LONG_TAIL
    counts = np.rint(most * (least / most) ** (np.arange(10) / 9)).astype(int)
    return dict(zip(np.random.default_rng(1000 + seed).permutation(10).tolist(), counts.tolist()))


@cache
def _fixed_glyphs(part: str) -> tuple[np.ndarray, np.ndarray]:
    face = signs.TEST_FACE if part == "test" else signs.TRAIN_FACE
    return signs.drawings(face, GLYPHS[part], SIZE, seed={"val": 101, "test": 102}[part])


def glyphs(seed: int) -> Draw:
    """Three drawings of each of 60 signs in the regular face; ``val`` in the same face, ``test`` in the bold one."""
    parts = {"train": signs.drawings(signs.TRAIN_FACE, GLYPHS["train"], SIZE, seed=10_000 + seed)}
    parts |= {part: _fixed_glyphs(part) for part in ("val", "test")}
    names = tuple(f"U+{ord(sign):04X}" for sign in signs.SIGNS)
    return Draw(splits={part: Images(images, classes.tolist(), names) for part, (images, classes) in parts.items()})


def draw(task: str, seed: int) -> Draw:
    """The draw ``seed`` of a task: ``digits-K``, ``glyphs`` or ``imbalanced``.

    Raises:
        KeyError: no such task.
    """
    if task == "glyphs":
        return glyphs(seed)
    if task == "imbalanced":
        return few_digits(long_tail(seed), seed)
    labels = {f"digits-{k}": k for k in LABELS}[task]
    return few_digits(dict.fromkeys(range(10), labels), seed, shifted=labels == WITH_SHIFTS)


TASKS = (*(f"digits-{k}" for k in LABELS), "glyphs", "imbalanced")
