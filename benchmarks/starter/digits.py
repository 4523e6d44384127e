"""Few labels of scikit-learn's handwritten digits, as the starter networks want to see them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

SIZE = 64
MEAN = STD = 0.5


@dataclass(frozen=True, kw_only=True)
class Draw:
    """``k`` labelled images a class and the rest as the test: pixels [N, 64] in 0..1, pictures [N, 3, 64, 64]."""

    train_pixels: np.ndarray
    train_images: Tensor
    train_labels: Tensor
    test_pixels: np.ndarray
    test_images: Tensor
    test_labels: Tensor


def enlarge(pixels: np.ndarray) -> Tensor:
    """8 x 8 grey values 0..16 -> normalised RGB [N, 3, 64, 64]; bicubic, as the packages' evaluation transform."""
    grey = np.rint(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(g).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for g in grey]
    scaled = (torch.from_numpy(np.stack(large)).float() / 255 - MEAN) / STD
    return scaled[:, None].expand(-1, 3, -1, -1).contiguous()


class Digits:
    """The 1,797 images, enlarged once; ``draw(k, seed)`` gives the same split to every row of the table."""

    def __init__(self) -> None:
        pixels, labels = load_digits(return_X_y=True)
        self.pixels, self.labels = pixels / 16.0, labels
        self.images = enlarge(pixels)

    def draw(self, k: int, seed: int) -> Draw:
        """``k`` images of each class by ``seed``; the other 1,797 - 10 k are the test."""
        order = np.random.default_rng(seed).permutation(len(self.labels))
        train = np.concatenate([order[self.labels[order] == digit][:k] for digit in range(10)])
        test = np.setdiff1d(order, train)
        labels = torch.from_numpy(self.labels).long()
        return Draw(
            train_pixels=self.pixels[train],
            train_images=self.images[train],
            train_labels=labels[train],
            test_pixels=self.pixels[test],
            test_images=self.images[test],
            test_labels=labels[test],
        )
