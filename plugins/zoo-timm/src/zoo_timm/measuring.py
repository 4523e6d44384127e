"""Measure one timm architecture without its weights: what a catalogue row says of it.

Everything runs on the meta device (shapes without numbers), so that a model of a billion parameters costs no more
memory than a small one. What the meta device cannot run is measured on the CPU, unless it is large.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from zoo_registry.specs import FEATURE_KINDS

from zoo_timm.blocks import group_blocks
from zoo_timm.features import as_map, extract, pyramid_levels, traced_linears

PROBE_CLASSES, CHANNELS = 7, 5
LARGEST_ON_CPU = 60_000_000
"""Parameters; larger models are measured on the meta device or not at all."""


@dataclass(kw_only=True)
class Measured:
    """What was measured.

    Attributes:
        parameters: of the backbone, ``num_classes=0``.
        widths: kind of features -> width; for ``pyramid`` a list of widths, finest level first.
        capabilities: names of :data:`zoo_registry.specs.CAPABILITIES` that hold whatever the weights.
        grouped: the blocks come from timm's ``group_matcher``, not from the fallback.
        device: ``"meta"`` or ``"cpu"``.
        notes: what did not work, by step.
    """

    parameters: int
    widths: dict[str, Any] = field(default_factory=dict)
    capabilities: list[str] = field(default_factory=list)
    grouped: bool = True
    device: str = "meta"
    notes: dict[str, str] = field(default_factory=dict)


class Probe:
    """Builds and runs one architecture with one ``pretrained_cfg``.

    Args:
        name: timm's name, ``architecture`` or ``architecture.tag``.
        device: ``"meta"`` or ``"cpu"``.
    """

    def __init__(self, name: str, device: str) -> None:
        self.name, self.device = name, device
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        self.config: dict[str, Any] = config.to_dict() if config is not None else {}
        self.channels, self.height, self.width = self.config.get("input_size", (3, 224, 224))

    def create(self, classes: int = 0, weights: Mapping[str, Tensor] | None = None, **arguments: Any) -> nn.Module:
        """The model in evaluation mode; ``weights`` go through timm's key filter."""
        overlay = {"state_dict": dict(weights), "source": None} if weights is not None else {}
        with torch.device(self.device), quiet():
            model = timm.create_model(
                self.name,
                pretrained=weights is not None,
                pretrained_cfg_overlay=overlay or None,
                num_classes=classes,
                **arguments,
            )
        return model.eval()

    def image(self, channels: int | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """A batch of two blank images."""
        return torch.zeros(2, channels or self.channels, *(size or (self.height, self.width)), device=self.device)


class _ShapesOnly(TorchFunctionMode):
    """On the meta device, skips what changes no shape (filling, normalisation, activations): two thirds of the time."""

    FILLING = frozenset(("normal_", "uniform_", "fill_", "zero_", "erfinv_", "mul_", "add_", "clamp_", "copy_", "div_"))
    KEEPING = frozenset(("layer_norm", "batch_norm", "group_norm", "gelu", "silu", "relu", "hardswish", "softmax"))

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if args and isinstance(args[0], Tensor) and args[0].is_meta:
            if name in self.FILLING:
                return args[0]
            if name in self.KEEPING:
                return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps timm from logging about keys and channels."""
    log = logging.getLogger("timm")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def measure(name: str) -> Measured:
    """Parameters, widths and capabilities of ``name`` (timm's, with or without a tag).

    Other image sizes and channels are built, loaded from the model's own tensors through timm's filter, and run.

    Raises:
        Exception: whatever timm or torch raise where neither the meta device nor the CPU can build it.
    """
    try:
        with _ShapesOnly():
            found = _measure(name, "meta")
    except Exception:
        if _parameters_on_meta(name) > LARGEST_ON_CPU:
            raise
        return _measure(name, "cpu")
    return found if "pooled" in found.widths or found.parameters > LARGEST_ON_CPU else _measure(name, "cpu")


@torch.no_grad()
def measure_numbers(name: str) -> Measured:
    """What shapes cannot tell, on the CPU with drawn weights; ``capabilities`` holds what was found true.

    ``classifier``: logits of the whole model equal the classifier on the pooled features; ``map``: the map equals
    timm's own last map (patch tokens lie in rows, not in another order). Parameters that the pooled features do not
    depend on are noted under ``gradients``.
    """
    probe = Probe(name, "cpu")
    torch.manual_seed(0)
    x = torch.randn(2, probe.channels, probe.height, probe.width)
    headless, full = probe.create(), probe.create(PROBE_CLASSES)
    state = full.state_dict()
    headless.load_state_dict(state, strict=False)
    found = Measured(parameters=sum(p.numel() for p in headless.parameters()), device="cpu")
    with _noting(found, "classifier"):
        layer = full.get_classifier()
        pooled = extract(headless, x, "pooled")
        logits = nn.functional.linear(pooled, layer.weight.flatten(1), layer.bias)
        _require_close(logits, full(x))
        found.capabilities.append("classifier")
    with _noting(found, "map"):
        if headless.forward_features(x).ndim == 3:
            _require_close(extract(headless, x, "map"), _last_map(headless, x))
        found.capabilities.append("map")
    with _noting(found, "gradients"), torch.enable_grad():
        _require_gradients(headless, x)
    return found


def _require_gradients(model: nn.Module, x: Tensor) -> None:
    """Every parameter has a part in the pooled features."""
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(model(x).square().sum(), list(named.values()), allow_unused=True)
    dead = [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]
    if dead:
        raise ValueError(f"without a gradient: {', '.join(dead)}")


def _last_map(model: nn.Module, x: Tensor) -> Any:
    """timm's own map of the last stage, normalised where timm can."""
    try:
        return model.forward_intermediates(x, norm=True, intermediates_only=True)[-1]
    except AssertionError:  # "normalization of features not supported": then there is none to apply
        return model.forward_intermediates(x, intermediates_only=True)[-1]


def _require_close(left: Any, right: Any) -> None:
    if left.shape != right.shape or not torch.allclose(left, right, rtol=1e-3, atol=1e-4 * float(right.abs().max())):
        raise ValueError(f"{tuple(left.shape)} and {tuple(right.shape)} differ in numbers")


@torch.no_grad()
def _measure(name: str, device: str) -> Measured:
    probe = Probe(name, device)
    model = probe.create()
    found = Measured(parameters=sum(p.numel() for p in model.parameters()), device=device)
    features = _measure_widths(model, probe.image(), found)
    if "pyramid" in found.widths:
        found.capabilities.append("intermediates")
    with _noting(found, "blocks"):
        group_blocks(model)
        found.capabilities.append("blocks")
    found.grouped = _has_matcher(model)
    _measure_others(probe, model, features, found)
    return found


def _measure_others(probe: Probe, model: nn.Module, features: Any, found: Measured) -> None:
    """Classifier, channels and image sizes. One more model is tried for all three; where it fails, one for each."""
    state, sizes = model.state_dict(), other_sizes(probe, model)
    resize: list[dict[str, Any]] = (
        [{"img_size": size} for size in sizes] if probe.config.get("fixed_input_size") else [{}, {}]
    )
    both: nn.Module | None = None
    with contextlib.suppress(Exception):
        both = probe.create(PROBE_CLASSES, weights=state, in_chans=CHANNELS, **resize[1])
    with _noting(found, "classifier"):
        _check_classifier(probe, model, both or probe.create(PROBE_CLASSES), found.widths["pooled"], features)
        found.capabilities.append("classifier")
    with _noting(found, "in_chans"):
        if not probe.config.get("first_conv"):
            raise ValueError("timm names no first convolution")
        channelled = both or probe.create(weights=state, in_chans=CHANNELS)
        channelled(probe.image(CHANNELS, sizes[1] if both else None))
        found.capabilities.append("in_chans")
    with _noting(found, "image_size"):
        for size, arguments in zip(sizes, resize, strict=True):
            other = probe.create(weights=state, **arguments) if arguments else model
            other(probe.image(size=size))
        found.capabilities.append("image_size")


def _measure_widths(model: nn.Module, x: Tensor, found: Measured) -> Any:
    """Widths by kind of features, and whether any linear layer is called; returns the last features."""
    with traced_linears(model) as called:
        features, levels, pooled = _pass(model, x, found)
    with _noting(found, "pooled"):
        found.widths["pooled"] = _width(pooled, 2, 1)
    if called:
        found.capabilities.append("linear_layers")
    with _noting(found, "map"):
        if isinstance(features, Tensor) and features.ndim == 3:
            found.widths["tokens"] = _width(features, 3, 2)
        found.widths["map"] = _width(as_map(model, features, x), 4, 1)
    with _noting(found, "pyramid"):
        areas = [level.shape[2] * level.shape[3] for level in levels]
        if not areas or areas != sorted(areas, reverse=True):
            raise ValueError(f"the maps are not finest first: {areas}")
        found.widths["pyramid"] = [_width(level, 4, 1) for level in levels]
    found.widths = {kind: found.widths[kind] for kind in FEATURE_KINDS if kind in found.widths}
    return features


def _pass(model: nn.Module, x: Tensor, found: Measured) -> tuple[Any, list[Tensor], Any]:
    """Last features, maps of the stages, pooled features: in one forward pass where timm's methods allow it."""
    try:
        features, maps = model.forward_intermediates(x, indices=pyramid_levels(model))
        levels = [m[0] if isinstance(m, tuple) else m for m in maps]
        return features, levels, model.forward_head(features)
    except Exception:  # a model that goes its own way is asked for each kind on its own
        features, levels, pooled = None, [], None
    with _noting(found, "pooled"):
        pooled = extract(model, x, "pooled")
    with _noting(found, "map"):
        features = model.forward_features(x)
    with _noting(found, "pyramid"):
        levels = list(extract(model, x, "pyramid"))
    return features, levels, pooled


def _width(features: Any, dimensions: int, axis: int) -> int:
    if not isinstance(features, Tensor) or features.ndim != dimensions:
        raise ValueError(f"the model returns {tuple(getattr(features, 'shape', ())) or type(features).__name__}")
    return int(features.shape[axis])


def _check_classifier(probe: Probe, headless: nn.Module, full: nn.Module, width: int, features: Tensor) -> None:
    """The classifier is one linear layer or 1x1 convolution, the logits are its output, and nothing else differs.

    Raises:
        ValueError: what is different.
    """
    layer = full.get_classifier()
    if not isinstance(layer, nn.Linear) and not (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
        raise ValueError(f"the classifier is {type(layer).__name__}")
    if layer.bias is None:
        raise ValueError("the classifier has no bias")
    name = next(n for n, m in full.named_modules() if m is layer)
    if probe.config.get("classifier") != name:
        raise ValueError(f"timm names {probe.config.get('classifier')!r}, the layer is {name!r}")
    added = set(full.state_dict()) - set(headless.state_dict())
    gone = set(headless.state_dict()) - set(full.state_dict())
    if added != {f"{name}.weight", f"{name}.bias"} or gone:
        raise ValueError(f"with classes the model also has {sorted(added)[:3]} and lacks {sorted(gone)[:3]}")
    outputs: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _m, _args, out: outputs.append(out))
    logits = full.forward_head(features)
    handle.remove()
    if len(outputs) != 1 or not (logits is outputs[0] or logits._base is outputs[0]):
        raise ValueError("the logits are not the classifier's output")
    if layer.weight.shape[1] != width:
        raise ValueError("the classifier does not take the pooled features")


def other_sizes(probe: Probe, model: nn.Module) -> list[tuple[int, int]]:
    """A smaller and a larger size, multiples of the coarsest stride."""
    unit = 32
    with contextlib.suppress(Exception):
        unit = max(int(entry["reduction"]) for entry in model.feature_info)

    def scaled(factor: float) -> tuple[int, int]:
        height, width = (unit * max(2, round(edge * factor / unit)) for edge in (probe.height, probe.width))
        return height, width

    return [scaled(0.75), scaled(2)]


def _has_matcher(model: nn.Module) -> bool:
    from timm.models import group_parameters

    try:
        return bool(group_parameters(model, model.group_matcher(coarse=False)))
    except Exception:  # any failure of a third party's matcher means the fallback
        return False


def _parameters_on_meta(name: str) -> int:
    try:
        return sum(p.numel() for p in Probe(name, "meta").create().parameters())
    except Exception:  # the constructor itself needs a real device: its size is not known beforehand
        return 0


@contextlib.contextmanager
def _noting(found: Measured, step: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever goes wrong in third-party code is a capability that is not there
        found.notes[step] = next(iter(str(error).splitlines()), type(error).__name__)[:160]
