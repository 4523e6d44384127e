"""The four kinds of features, read off a timm model that was made with ``num_classes=0``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

PYRAMID_LEVELS = 4
"""Maps taken from a model whose blocks all work at one resolution (a ViT), evenly spaced and ending with the last."""


def extract(model: nn.Module, x: Tensor, kind: str) -> Tensor | list[Tensor]:
    """Features of ``kind`` for images ``x`` [B, C, H, W].

    Returns:
        ``pooled`` [B, D], ``tokens`` [B, N, D] (prefix tokens first), ``map`` [B, D, h, w] or ``pyramid``, a list of
        maps, finest first.

    Raises:
        ValueError: the model has no features of this kind.
    """
    if kind == "pyramid":
        return pyramid(model, x)
    if kind == "pooled":
        return _shaped(model(x), 2, kind)
    features = model.forward_features(x)
    return _shaped(features, 3, kind) if kind == "tokens" else as_map(model, features, x)


def as_map(model: nn.Module, features: Any, x: Tensor) -> Tensor:
    """The output of ``forward_features`` as a map [B, D, h, w]; patch tokens are laid out in their grid.

    Raises:
        ValueError: the features are neither a map nor a rectangular grid of tokens.
    """
    if isinstance(features, Tensor) and features.ndim == 4:
        return features.permute(0, 3, 1, 2) if _channels_last(model, features) else features
    tokens = _shaped(features, 3, "map")
    prefix = getattr(model, "num_prefix_tokens", 0)
    patches = tokens[:, prefix:] if isinstance(prefix, int) else tokens
    height, width = _grid(patches.shape[1], x.shape[-2], x.shape[-1])
    return patches.transpose(1, 2).reshape(x.shape[0], -1, height, width)


def pyramid(model: nn.Module, x: Tensor) -> list[Tensor]:
    """One map [B, D_i, h_i, w_i] per stage, finest first, not normalised.

    Raises:
        ValueError: the model returns none.
    """
    maps = model.forward_intermediates(x, indices=pyramid_levels(model), intermediates_only=True)
    maps = [m[0] if isinstance(m, tuple) else m for m in maps]
    if not maps or any(not isinstance(m, Tensor) or m.ndim != 4 for m in maps):
        raise ValueError(f"{type(model).__name__} has no pyramid of maps")
    return maps


def pyramid_levels(model: nn.Module) -> list[int] | None:
    """Which of timm's feature maps make the pyramid: None for all, one a stage."""
    info = [entry["reduction"] for entry in getattr(model, "feature_info", []) or []]
    if len(info) <= PYRAMID_LEVELS or len(set(map(str, info))) > 1:
        return None
    return [len(info) * (i + 1) // PYRAMID_LEVELS - 1 for i in range(PYRAMID_LEVELS)]


def _channels_last(model: nn.Module, features: Tensor) -> bool:
    if getattr(model, "output_fmt", None) == "NHWC":
        return True
    width = getattr(model, "num_features", None)
    return bool(features.shape[-1] == width and features.shape[1] != width)


def _grid(count: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of ``count`` patches of an image of ``height`` x ``width``."""
    rows = max(1, round((count * height / width) ** 0.5))
    if rows * (count // rows) != count:
        raise ValueError(f"{count} tokens are no grid for an image of {height} x {width}")
    return rows, count // rows


def _shaped(features: Any, ndim: int, kind: str) -> Tensor:
    if not isinstance(features, Tensor) or features.ndim != ndim:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"no {kind} features: the model returns {shape}")
    return features


def reached_linears(model: nn.Module, forward: Callable[[], Any]) -> list[str]:
    """Names of the linear layers that ``forward()`` reaches through their own ``forward``, and whose output counts.

    An adapter anywhere else would do nothing: some attentions take ``layer.weight`` and never call the layer, and what
    a class token's last layers compute is not among the patch tokens. To each output a zero is added, and the layers
    are those on whose zero the result depends; gradients of the model's own parameters are left alone.
    """
    with torch.enable_grad(), traced_linears(model) as zeros:
        result = forward()
        maps = result if isinstance(result, list) else [result]
        total = torch.stack([m.float().sum() for m in maps]).sum()
        found = torch.autograd.grad(total, list(zeros.values()), allow_unused=True) if zeros else ()
    return [name for name, gradient in zip(zeros, found, strict=True) if gradient is not None]


@contextlib.contextmanager
def traced_linears(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within, collects the linear layers that are reached through their own ``forward``: name -> a zero in the output.

    The zeros are scalars that a gradient can be asked for.
    """
    called: dict[str, Tensor] = {}
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}

    def note(name: str) -> Callable[..., Tensor]:
        def add(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            zero = called.setdefault(name, torch.zeros((), device=output.device, dtype=output.dtype))
            return output + zero.requires_grad_()

        return add

    hooks = [module.register_forward_hook(note(name)) for name, module in linears.items()]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()
