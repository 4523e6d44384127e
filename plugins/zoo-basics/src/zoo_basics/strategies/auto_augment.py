"""TrivialAugment and RandAugment: torchvision's policies around the train view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from zoo_registry import Strategy, StrategySpec, UsageError

from zoo_basics.options.data import RandAugmentOptions, TrivialAugmentOptions


class AutoAugment(Strategy):
    """A policy on each image, after the train view of every stream has cropped and resized it.

    The other views (``eval``, ``weak``, ``strong``) are left alone.

    Args:
        name: for errors.
        policy: ``uint8 [C, H, W] -> uint8 [C, H, W]``, drawing from torch's global generator.
    """

    def __init__(self, name: str, policy: nn.Module) -> None:
        self.name, self.policy = name, policy

    def augment(self, transform: Callable[..., Any], stream: str, view: str) -> Callable[..., Any]:
        """The policy behind ``transform`` for the view ``train``."""
        return Augmented(transform, self.name, self.policy) if view == "train" else transform


@dataclass(frozen=True)
class Augmented:
    """A transform ``(sample, generator) -> sample`` with a policy behind it; can be pickled where they can."""

    transform: Callable[..., Any]
    name: str
    policy: nn.Module
    deterministic: bool = False

    def __call__(self, sample: Any, generator: Generator) -> Tensor:
        """An image, uint8 [C, H, W], of any number of channels.

        Torchvision knows grey and colour. Images of other channels go through it as that many grey ones, all under
        the same draw, so that the channels stay aligned; saturation then means nothing.

        Raises:
            UsageError: the transform gives no image.
        """
        image = self.transform(sample, generator)
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3:
            raise UsageError(f"strategy {self.name!r} changes images, and this input is none", hint="leave it out")
        grey = image.shape[0] not in (1, 3)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            changed: Tensor = self.policy(image[:, None] if grey else image)
        return changed[:, 0] if grey else changed


def build_trivial(spec: StrategySpec, options: TrivialAugmentOptions) -> AutoAugment:
    """The strategy ``trivial-augment``: one of 14 operations, its strength one of 31, both drawn uniformly.

    Mueller and Hutter, TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation, ICCV 2021 (arXiv
    2103.10158), in its wide space: shearing to 0.99, shifts to 32 pixels, turns to 135 degrees, brightness, colour,
    contrast and sharpness by up to 99 %, posterising to 2 bits, solarising, autocontrast, equalising, or nothing.
    """
    from torchvision.transforms import v2

    return AutoAugment("trivial-augment", v2.TrivialAugmentWide(fill=options.fill))


def build_rand(spec: StrategySpec, options: RandAugmentOptions) -> AutoAugment:
    """The strategy ``rand-augment``: ``ops`` of 14 operations, drawn uniformly, all of strength ``magnitude`` of 30.

    Cubuk et al., RandAugment: Practical automated data augmentation with a reduced search space, NeurIPS 2020 (arXiv
    1909.13719). At 30: shearing 0.3, shifts of 45 % of the edge, turns of 30 degrees, colours by 90 %, 4 bits.
    """
    from torchvision.transforms import v2

    policy = v2.RandAugment(num_ops=options.ops, magnitude=options.magnitude, fill=options.fill)
    return AutoAugment("rand-augment", policy)
