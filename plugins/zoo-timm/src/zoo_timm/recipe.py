"""How one timm model is made: everything ``timm.create_model`` needs, kept so that it can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from zoo_registry import BackboneSpec, ImageInput, IntegrityError, PluginError, UsageError

from zoo_timm.arguments import parse_arguments
from zoo_timm.options import TimmOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The arguments of one timm model.

    Attributes:
        name: full or local name, for messages.
        architecture: timm's name without a tag.
        tag: pretrained tag, which selects timm's ``pretrained_cfg``; "" is the architecture's default.
        native: the input that the weights were made for.
        image: the input that the model is made for.
        arguments: constructor keywords that belong to the published form (``in_chans``, ``img_size``...).
        training: constructor keywords that do not (drop rates).
        config: timm's ``pretrained_cfg`` of the tag.
    """

    name: str
    architecture: str
    tag: str
    native: ImageInput
    image: ImageInput
    arguments: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Module names of the pretrained classifier; empty where timm knows of none."""
        named = self.config.get("classifier")
        return (named,) if isinstance(named, str) else tuple(named or ())

    def at_native_input(self) -> Recipe:
        """The same model at the size and channels of its weights."""
        kept = {k: v for k, v in self.arguments.items() if k != "in_chans"}
        if "img_size" in kept:
            kept["img_size"] = list(self.native.size)
        return replace(self, image=self.native, arguments=kept)

    def create(
        self, classes: int = 0, *, weights: Path | None = None, overlay: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """The timm model with ``classes`` outputs (0: features), loaded from ``weights`` or random.

        Raises:
            UsageError: timm cannot build it with this image size, number of channels or drop rate.
        """
        settings = {"input_size": (self.native.channels, *self.native.size), "custom_load": False, **(overlay or {})}
        if weights is not None:
            settings["file"] = str(weights)
        name = f"{self.architecture}.{self.tag}" if self.tag else self.architecture
        return timm.create_model(
            name,
            pretrained=weights is not None,
            pretrained_cfg_overlay=settings,
            num_classes=classes,
            **self.arguments,
            **self.training,
        )

    def outline(self, classes: int = 0) -> nn.Module:
        """The model without memory for its weights (on the meta device, where timm's constructor allows it)."""
        try:
            with torch.device("meta"):
                return self.create(classes)
        except (RuntimeError, NotImplementedError, TypeError, ValueError):
            return self.create(classes)


def make_recipe(spec: BackboneSpec, options: TimmOptions, image: ImageInput) -> Recipe:
    """The recipe of ``spec`` for this input and these options.

    Raises:
        PluginError: the installed timm does not know the architecture.
        UsageError: the backbone cannot take this image size or number of channels.
    """
    architecture, tag = str(spec.extra["architecture"]), str(spec.extra.get("tag", ""))
    if not timm.is_model(architecture):
        raise PluginError(
            f"timm {timm.__version__} has no architecture '{architecture}' (backbone '{spec.name}')",
            "pip install -U timm",
        )
    config = _config(spec, architecture, tag)
    native = spec.input
    if not isinstance(native, ImageInput):
        raise UsageError(f"'{spec.name}' is no image backbone, and timm has no others")
    _check_input(spec, native, image)
    arguments = {**spec.extra.get("kwargs", {}), **_given(spec, options)}
    if image.channels != native.channels:
        arguments["in_chans"] = image.channels
    if "img_size" in arguments or config.get("fixed_input_size"):
        arguments["img_size"] = list(image.size)
    training = {
        key: value
        for key, value in (("drop_path_rate", options.drop_path_rate), ("drop_rate", options.drop_rate))
        if value is not None
    }
    return Recipe(
        name=spec.name,
        architecture=architecture,
        tag=tag,
        native=native,
        image=image,
        arguments=arguments,
        training=training,
        config=config,
    )


def _given(spec: BackboneSpec, options: TimmOptions) -> dict[str, Any]:
    """The option ``model_args``; size and channels are the input's.

    Raises:
        UsageError: it holds what is not handed on.
    """
    try:
        given = parse_arguments(options.model_args, where=spec.name)
    except IntegrityError as error:
        raise UsageError(error.message, error.hint) from error
    double = [name for name in ("in_chans", "img_size") if name in given]
    if double:
        raise UsageError(f"{spec.name}: model_args holds {double[0]}", "say it with --in-chans or --image-size")
    return given


def _config(spec: BackboneSpec, architecture: str, tag: str) -> dict[str, Any]:
    """timm's ``pretrained_cfg`` of the tag as a dictionary, empty where timm has none."""
    try:
        known = timm.get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture)
    except RuntimeError as error:  # the architecture is there, the tag is not
        raise PluginError(
            f"timm {timm.__version__} has no tag '{tag}' of '{architecture}' (backbone '{spec.name}')",
            "pip install -U timm",
        ) from error
    return known.to_dict() if known is not None else {}


def _check_input(spec: BackboneSpec, native: ImageInput, image: ImageInput) -> None:
    wanted, own = "x".join(map(str, image.size)), "x".join(map(str, native.size))
    if image.size != native.size and "image_size" not in spec.capabilities:
        raise UsageError(f"'{spec.name}' takes images of {own} alone, not {wanted}", f"--image-size {native.size[0]}")
    if image.channels != native.channels and "in_chans" not in spec.capabilities:
        raise UsageError(
            f"'{spec.name}' takes {native.channels} input channels alone, not {image.channels}",
            f"--in-chans {native.channels}",
        )
