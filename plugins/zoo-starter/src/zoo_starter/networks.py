"""What the two networks are: a timm architecture by name and the keywords that make it small.

``timm.create_model(architecture, **model_args)`` rebuilds each of them without this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of this package.

    Attributes:
        summary: one line.
        architecture: a name that timm knows.
        model_args: keywords of timm's constructor, JSON values only.
        family: as in timm.
        parameters: without a classifier.
        features: kind of features -> width, measured.
        capabilities: as in ``BackboneSpec``.
        sha256, size: of the weights file, in bytes.
        recommended: as in ``BackboneSpec``.
        facts: accuracy of ``linear`` on handwritten digits with so many labels a class, mean of five draws.
    """

    summary: str
    architecture: str
    model_args: Mapping[str, Any]
    family: str
    parameters: int
    features: Mapping[str, int | tuple[int, ...]]
    capabilities: frozenset[str]
    sha256: str
    size: int
    recommended: int
    facts: Mapping[str, float]


SIZE = 64
"""Side of the input in pixels."""

MEAN = STD = (0.5, 0.5, 0.5)
"""Per channel, on values scaled to 0..1."""

COMMON = frozenset({"blocks", "intermediates", "classifier", "image_size", "in_chans"})
"""Capabilities of both."""

NETWORKS: Mapping[str, Network] = {
    "cnn": Network(
        summary="small ResNet with BatchNorm, pretrained on drawn signs, strokes and textures; 64 px",
        architecture="resnet10t",
        model_args={"channels": [32, 64, 96, 192], "stem_width": 16},
        family="resnet",
        parameters=745_276,
        features={"pooled": 192, "map": 192, "pyramid": (32, 32, 64, 96, 192)},
        capabilities=COMMON,
        sha256="be502a3644ebe90f0da0f3fa96e63bd984a042b2846a5856b3a493bce064887a",
        size=2_998_088,
        recommended=1,
        facts={"digits_5_labels": 0.965, "digits_10_labels": 0.975},
    ),
    "vit": Network(
        summary="tiny vision transformer, pretrained on drawn signs, strokes and textures; 64 px, patches of 8",
        architecture="vit_tiny_patch16_224",
        model_args={
            "img_size": 64,
            "patch_size": 8,
            "embed_dim": 96,
            "depth": 4,
            "num_heads": 3,
            "class_token": False,
            "global_pool": "avg",
        },
        family="vision_transformer",
        parameters=472_224,
        features={"pooled": 96, "tokens": 96, "map": 96, "pyramid": (96, 96, 96, 96)},
        capabilities=COMMON | {"linear_layers"},
        sha256="fd6ad2ca7e0ed64b59322102276bf103cdf5a6a275b72c0373fd2dade39d021e",
        size=1_893_704,
        recommended=0,
        facts={"digits_5_labels": 0.96, "digits_10_labels": 0.973},
    ),
}
