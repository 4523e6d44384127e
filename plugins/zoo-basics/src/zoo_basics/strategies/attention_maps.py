"""How much each filter of a network matters: DELTA's attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from zoo_registry import Batch, TransferModel


def channel_axis(output: Tensor) -> int:
    """Where the channels of a block's output are: [B, C, H, W], [B, H, W, C] (as in Swin), [B, N, C] or [B, C].

    Of four axes the channels are the last one where the middle two are equal and the last two are not.
    """
    if output.ndim == 4:
        return 3 if output.shape[1] == output.shape[2] != output.shape[3] else 1
    return 2 if output.ndim == 3 else 1


def places(output: Tensor) -> Tensor:
    """A block's output as [B, C, places]."""
    first = output.movedim(channel_axis(output), 1)
    return first.flatten(2) if first.ndim > 2 else first[:, :, None]


@torch.no_grad()
def channel_attention(
    model: TransferModel, reference: TransferModel, batch: Batch, taps: Sequence[str], sharpness: float = 1.0
) -> dict[str, Tensor]:
    """``C * softmax_c(sharpness * (L(without filter c) - L))`` for each tapped module of the reference's backbone.

    Args:
        model: gives the head and the loss; its backbone is not run.
        reference: the pretrained network.
        batch: labelled, with a view.
        taps: names of modules of the backbone.
        sharpness: factor of the rises of the loss.

    Returns:
        Name -> [C] in float32, of mean 1.
    """
    view = next(iter(batch.views.values()))

    def loss() -> float:
        return model.supervised(replace(batch, views={}, features=reference.backbone(view), passes={})).item()

    weights = {}
    with _evaluating(model.head):
        whole = loss()
        for tap in taps:
            module = reference.backbone.get_submodule(tap)
            axis, channels = _shape(module, lambda: reference.backbone(view))
            rises = []
            for channel in range(channels):
                with _hooked(module, _without(axis, channel)):
                    rises.append(loss() - whole)
            weights[tap] = channels * (sharpness * torch.tensor(rises)).softmax(0).to(view.device)
    return weights


def _shape(module: nn.Module, forward: Callable[[], Any]) -> tuple[int, int]:
    """Channel axis and number of channels of a module's output."""
    seen: list[Tensor] = []
    with _hooked(module, lambda _module, _inputs, output: seen.append(output)):
        forward()
    axis = channel_axis(seen[-1])
    return axis, seen[-1].shape[axis]


def _without(axis: int, channel: int) -> Callable[..., Tensor]:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        silenced = output.clone()
        silenced.select(axis, channel).zero_()
        return silenced

    return hook


@contextmanager
def _hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _evaluating(head: nn.Module) -> Iterator[None]:
    """The head in evaluation mode for a while; every module of it gets its own mode back."""
    modes = [(module, module.training) for module in head.modules()]
    head.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
