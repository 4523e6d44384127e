"""A timm model as a backbone of the zoo. The factory serves every row of the catalogue, and other packages' specs.

A spec of another package may name ``factory="zoo_timm.backbone:build"`` with
``extra={"architecture": "vit_tiny_patch16_224", "kwargs": {"img_size": 64, "depth": 6}}``; the keywords go to timm's
constructor and, on export, into ``model_args`` of ``config.json``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from zoo_registry import (
    BackboneSpec,
    Classifier,
    Exported,
    ImageInput,
    Input,
    IntegrityError,
    LoadReport,
    UsageError,
)

from zoo_timm.blocks import group_blocks
from zoo_timm.exporting import classifier_tensors, make_config, plain_tensors
from zoo_timm.features import extract, pyramid, reached_linears
from zoo_timm.loading import file_shapes, report
from zoo_timm.making import guarded, load
from zoo_timm.options import TimmOptions
from zoo_timm.recipe import Recipe, make_recipe

PREFIX = "model."
"""In front of timm's own names within this module: ``model.layer1.0.conv1.weight``. ``export`` strips it."""


def build(
    spec: BackboneSpec,
    options: TimmOptions,
    *,
    input: Input,
    features: str,
    weights: Path | None,
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> TimmBackbone:
    """Build the backbone of ``spec``; see :class:`zoo_registry.building.BackboneFactory`.

    Raises:
        PluginError: the installed timm does not know the architecture or tag.
        UsageError: image size, channels, options or kind of features do not suit the backbone.
        IntegrityError: ``weights`` is no safetensors file, or not one of this backbone.
    """
    if features not in spec.features:
        raise UsageError(f"'{spec.name}' has no {features} features", f"kinds: {', '.join(spec.features)}")
    if not isinstance(input, ImageInput):
        raise UsageError(f"'{spec.name}' is fed images, not {input.kind}")
    recipe = make_recipe(spec, options, input)
    license = spec.weights.license if spec.weights is not None else None
    backbone = TimmBackbone(recipe, features, weights=weights, license=license)
    if options.model_args:
        _refuse_width(spec, backbone)
    if options.grad_checkpointing:
        backbone.checkpoint_gradients()
    if dtype is None and torch.device(device).type == "cpu":  # where it was made
        return backbone
    return backbone.to(device=device, dtype=dtype)


class TimmBackbone(nn.Module):
    """A timm model that returns features of one kind.

    Args:
        recipe: how the model is made.
        features: ``pooled``, ``map``, ``tokens`` or ``pyramid``.
        weights: a local safetensors file in any form that timm reads for this architecture, or None for random.
        license: licence of the weights, for ``export``.

    Attributes:
        model: the timm model, made with ``num_classes=0``; its names stand behind :data:`PREFIX` here.
        load_report: what became of the tensors of the file; None where there was no file.
    """

    def __init__(self, recipe: Recipe, features: str, *, weights: Path | None, license: str | None = None) -> None:
        super().__init__()
        self.recipe = recipe
        self.features = features
        self.weights = weights
        self.license = license
        self.load_report: LoadReport | None = None
        self.model = self._create(recipe, weights)

    def forward(self, x: Tensor) -> Any:
        """Features of images ``x`` [B, C, H, W]: see :func:`zoo_timm.features.extract` for the shapes."""
        return extract(self.model, x, self.features)

    def published(self) -> nn.Module:
        """The timm model: what ``export`` writes has its names."""
        return self.model

    def intermediates(self, x: Tensor) -> list[Tensor]:
        """One map [B, D_i, h_i, w_i] per stage, finest first."""
        return pyramid(self.model, x)

    def blocks(self) -> dict[str, tuple[str, ...]]:
        """Ordered block name -> parameter-name prefixes in this module, see :func:`zoo_timm.blocks.group_blocks`."""
        return {name: tuple(PREFIX + p for p in prefixes) for name, prefixes in group_blocks(self.model).items()}

    def linear_layers(self) -> tuple[str, ...]:
        """Names of the linear layers that a forward pass reaches through their own ``forward``, and that matter to it.

        Found with one pass over an image of zeros, see :func:`zoo_timm.features.reached_linears`.
        """
        with _evaluating(self):
            names = reached_linears(self.model, lambda: self(self._blank()))
        return tuple(PREFIX + name for name in names)

    def native_head(self) -> nn.Linear:
        """The pretrained classifier in the weights file, as a linear layer from the pooled features.

        Raises:
            UsageError: the backbone was built without weights, or they hold no classifier.
        """
        classes, overlay = self._native_classes()
        assert self.weights is not None  # or it would have no native classes
        model, taken = load(self.recipe, self.weights, classes=classes, overlay=overlay)
        layer = model.get_submodule(self.recipe.classifiers[0])
        weight, bias = layer.weight, layer.bias
        if f"{self.recipe.classifiers[0]}.weight" not in taken or not isinstance(weight, Tensor):
            raise UsageError(f"the weights of '{self.recipe.name}' hold no classifier")
        head = nn.Linear(weight.shape[1], weight.shape[0])
        head.weight.data = weight.detach().flatten(1).clone()
        head.bias.data = bias.detach().clone() if isinstance(bias, Tensor) else torch.zeros(weight.shape[0])
        return head

    def export(self, classifier: Classifier | None, labels: Sequence[str], input: Input) -> Exported:
        """timm's own form, under timm's own names: loads with ``timm.create_model("local-dir:...", pretrained=True)``.

        Args:
            classifier: a folded head on the pooled features, or None: then ``num_classes`` is 0.
            labels: class names in order.
            input: the evaluation transform really used.

        Raises:
            UsageError: the architecture's classifier is not one linear layer.
        """
        if not isinstance(input, ImageInput):
            raise UsageError(f"'{self.recipe.name}' is fed images, not {input.kind}")
        state = self.model.state_dict()
        added: dict[str, Tensor] = {}
        if classifier is not None:
            full = self.recipe.outline(classifier.weight.shape[0]).state_dict()
            added = classifier_tensors(classifier, state, full, name=self.recipe.name)
        pool = getattr(self.model, "global_pool", None)
        config = make_config(
            self.recipe.architecture,
            self.recipe.arguments,
            self.recipe.config,
            input,
            labels=labels,
            classes=0 if classifier is None else classifier.weight.shape[0],
            width=int(getattr(self.model, "num_features", 0)),
            pool=pool if isinstance(pool, str) else None,
            license=self.license,
        )
        names = tuple(added)
        tensors = plain_tensors({**state, **added})
        return Exported(config, tensors, (names[0], names[1]) if names else None, "timm")

    def checkpoint_gradients(self) -> None:
        """Trade time for memory in training.

        Raises:
            UsageError: timm has no gradient checkpointing for this architecture.
        """
        try:
            self.model.set_grad_checkpointing(True)
        except (AttributeError, AssertionError) as error:
            raise UsageError(f"'{self.recipe.name}' has no gradient checkpointing") from error

    def _create(self, recipe: Recipe, weights: Path | None) -> nn.Module:
        if weights is None:
            return guarded(recipe, None)
        overlay = _file_channels(recipe, file_shapes(weights))
        model, taken = load(recipe, weights, overlay=overlay)
        native = None if recipe.image.size == recipe.native.size else lambda: _shapes(recipe.at_native_input())
        found = report(model, weights, taken, classifiers=recipe.classifiers, native_shapes=native)
        _refuse_gaps(recipe, model, weights, found)
        self.load_report = LoadReport(
            loaded=found.loaded,
            resized=tuple(PREFIX + name for name in found.resized),
            initialised=tuple(PREFIX + name for name in found.initialised),
            dropped=found.dropped,
        )
        return model

    def _native_classes(self) -> tuple[int, dict[str, Any]]:
        """Outputs of the classifier in the weights file, and what timm must be told where it is not its own."""
        if self.weights is None or len(self.recipe.classifiers) != 1:
            raise UsageError(f"'{self.recipe.name}' was built without a pretrained classifier")
        own = int(self.recipe.config.get("num_classes") or 0)
        offset = int(self.recipe.config.get("label_offset") or 0)
        shapes = file_shapes(self.weights)
        channels = _file_channels(self.recipe, shapes)
        shape = shapes.get(f"{self.recipe.classifiers[0]}.weight")
        if shape is not None and shape[0] != own + offset:  # a file of our own export, with other classes
            return shape[0], {"num_classes": shape[0], "label_offset": 0, **channels}
        if own == 0:
            raise UsageError(f"the weights of '{self.recipe.name}' hold no classifier")
        return own, channels

    def _blank(self) -> Tensor:
        first = next(self.parameters())
        image = self.recipe.image
        return torch.zeros(1, image.channels, *image.size, device=first.device, dtype=first.dtype)


def _refuse_width(spec: BackboneSpec, backbone: TimmBackbone) -> None:
    """``model_args`` may give a backbone another shape, but features of the width that its spec states."""
    width = spec.features.get("pooled")
    try:
        found = backbone.model.head_hidden_size
    except AttributeError:
        found = getattr(backbone.model, "num_features", width)
    if width is not None and found != width:
        given = dict(backbone.recipe.arguments)
        raise UsageError(
            f"'{spec.name}' has {width} pooled features, with model_args {given} it has {found}",
            "take arguments that leave the width as it is",
        )


def _refuse_gaps(recipe: Recipe, model: nn.Module, weights: Path, found: LoadReport) -> None:
    """A file that lacks tensors is not this backbone's; only a stem for other channels may stay random.

    Integer buffers (index tables) are made by the constructor and need no file.
    """
    state = model.state_dict()
    first = recipe.config.get("first_conv") if recipe.image.channels != recipe.native.channels else None
    stems = tuple(f"{s}." for s in ((first,) if isinstance(first, str) else first or ()))
    gaps = [n for n in found.initialised if state[n].is_floating_point() and not n.startswith(stems)]
    if gaps:
        heads = tuple(f"{c}." for c in recipe.classifiers)
        strange = [n for n in found.dropped if not n.startswith(heads)]
        more = f", and has {len(strange)} that are not its own: {_first(strange)}" if strange else ""
        raise IntegrityError(
            f"weights file '{weights.name}' does not fit '{recipe.name}': "
            f"it lacks {len(gaps)} of {len(state)} tensors: {_first(gaps)}{more}",
            "give the file of this backbone",
        )


def _first(names: list[str]) -> str:
    return ", ".join(f"'{n}'" for n in names[:5]) + (", ..." if len(names) > 5 else "")


def _file_channels(recipe: Recipe, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Tells timm when the file's stem already has the wanted channels (a file of our own export)."""
    first = recipe.config.get("first_conv")
    stem = shapes.get(f"{first}.weight") if isinstance(first, str) else None
    wanted = recipe.image.channels
    if stem is None or wanted == recipe.native.channels or len(stem) != 4 or stem[1] != wanted:
        return {}
    return {"input_size": (wanted, *recipe.native.size), "first_conv": None}  # None: there is nothing to adapt


def _shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in recipe.outline().state_dict().items()}


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every submodule gets its own mode back."""
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for m, mode in modes.items():
            m.training = mode
