"""A tiny plugin and tiny data for tests of training: networks that train in milliseconds, images drawn from a seed.

``registry()`` holds it as a plugin ``tiny``; ``SOURCE`` is its module, for a distribution on disk and a ``zoo`` in a
process of its own.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn
from zoo_registry import BackboneSpec, Exported, HeadSpec, ImageInput, Registry, Strategy, StrategySpec, discover
from zoo_registry.discovery import Plugin, Selection

SIZE = 8
INPUT = ImageInput(size=(SIZE, SIZE), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_pct=1.0)


class TinyNet(nn.Module):
    """Two convolutions; BatchNorm and dropout where asked for. Blocks ``stem``, ``body``."""

    def __init__(self, norm: bool, spare: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3, 1, 1), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU())
        self.drop = nn.Dropout(0.2 if norm else 0.0)
        if spare:
            self.spare = nn.Linear(3, 3)
        self.load_report = None

    def forward(self, x):
        return self.drop(self.body(self.stem(x)).mean((2, 3)))

    def blocks(self):
        return {"stem": ("stem",), "body": ("body", "spare") if hasattr(self, "spare") else ("body",)}

    def export(self, classifier, labels, input):
        tensors = {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}
        return Exported(config={"architecture": "tiny"}, tensors=tensors)


def build_net(spec, options, *, input, features, weights, device, dtype):
    """Factory of the backbones; there are no weights to load."""
    return TinyNet(spec.extra["norm"], spec.extra.get("spare", False)).to(device)


class TinyHead(nn.Module):
    """A linear head for any mix of columns, with the loss in plain torch."""

    def __init__(self, width, targets) -> None:
        super().__init__()
        self.columns = targets
        self.layers = nn.ModuleDict({c.name: nn.Linear(width, c.size) for c in targets})

    def forward(self, features):
        return {name: layer(features) for name, layer in self.layers.items()}

    def loss(self, outputs, targets):
        losses = {}
        for name, logits in outputs.items():
            target = targets[name]
            if target.is_floating_point():
                losses[name] = nn.functional.cross_entropy(logits, target, reduction="none")
            else:
                value = nn.functional.cross_entropy(logits, target.clamp(min=0), reduction="none")
                losses[name] = value.masked_fill(target < 0, torch.nan)
        return losses

    def decode(self, outputs):
        return {name: logits.softmax(1) for name, logits in outputs.items()}


def build_head(spec, options, *, width, targets):
    """Factory of the head."""
    return TinyHead(width, targets)


class Freeze(Strategy):
    """The backbone is frozen."""

    def prepare(self, model, run):
        model.freeze()


def build_freeze(spec, options):
    """Factory."""
    return Freeze()


def build_full(spec, options):
    """Factory."""
    return Strategy()


BACKBONES = [
    BackboneSpec(
        name=name,
        summary="a tiny network for tests",
        factory="tiny_zoo:build_net",
        input=INPUT,
        features={"pooled": 8},
        capabilities=frozenset({"blocks"}),
        extra=extra,
    )
    for name, extra in {
        "norm": {"norm": True},
        "plain": {"norm": False},
        "spare": {"norm": True, "spare": True},
    }.items()
]
HEADS = [HeadSpec(name="head", summary="a tiny head for tests", factory="tiny_zoo:build_head")]
STRATEGIES = [
    StrategySpec(name="freeze", summary="the head learns", factory="tiny_zoo:build_freeze"),
    StrategySpec(name="whole", summary="all learns", factory="tiny_zoo:build_full", touches=frozenset({"backbone"})),
]

SOURCE = """
from zoo_registry import hookimpl
import tiny_zoo

@hookimpl
def zoo_backbones():
    return tiny_zoo.BACKBONES

@hookimpl
def zoo_heads():
    return tiny_zoo.HEADS

@hookimpl
def zoo_strategies():
    return tiny_zoo.STRATEGIES
"""


def registry(*strategies: StrategySpec) -> Registry:
    """The installed plugins that need no other library, and ``tiny`` with these further strategies."""
    plugin = Plugin(namespace="tiny", distribution="zoo-tiny", version="1")
    plugin.specs |= {"backbone": BACKBONES, "head": HEADS, "strategy": [*STRATEGIES, *strategies]}
    return Registry([plugin, *discover(selection=Selection(frozenset({"basics"}), {}))])


class Drawn:
    """A map-style dataset: classes differ in brightness and in the direction of their stripes.

    Args:
        count: samples; class ``i % classes``.
        bad: indices whose image cannot be read.
    """

    def __init__(self, count: int = 26, classes: int = 3, seed: int = 0, bad: tuple[int, ...] = ()) -> None:
        draw = np.random.default_rng(seed)
        self.classes = [f"class{i}" for i in range(classes)]
        self.targets = [i % classes for i in range(count)]
        self.bad = bad
        self.images = draw.integers(0, 90, (count, SIZE, SIZE, 3)).astype(np.uint8)
        for image, label in zip(self.images, self.targets, strict=True):
            image[:: label + 1, :, label % 3] += 120

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int):
        if index in self.bad:
            raise OSError("drawn badly")
        return self.images[index], self.targets[index]


class Stuck(Drawn):
    """One image never comes, as from a file system that is gone; ``marker`` appears when it is asked for."""

    def __init__(self, stuck: int, marker: str, **arguments) -> None:
        super().__init__(**arguments)
        self.stuck, self.marker = stuck, marker

    def __getitem__(self, index: int):
        if index == self.stuck:
            with open(self.marker, "w"):
                pass
            time.sleep(300)
        return super().__getitem__(index)


def drawn_splits(train: int = 26, **arguments) -> dict[str, Drawn]:
    """Data with all three splits."""
    return {"train": Drawn(train, **arguments), "val": Drawn(15, seed=1), "test": Drawn(12, seed=2)}


def write_images(folder, train: int = 26):
    """The same as class folders of PNG files."""
    from PIL import Image

    for split, data in drawn_splits(train).items():
        for index, (image, label) in enumerate(zip(data.images, data.targets, strict=True)):
            place = folder / split / data.classes[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{index:03d}.png")
    return folder
