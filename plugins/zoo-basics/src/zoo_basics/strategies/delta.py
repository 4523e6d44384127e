"""DELTA: the feature maps are kept near those of the pretrained network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from zoo_registry import Batch, Losses, Run, Strategy, StrategySpec, TransferModel, UsageError
from zoo_registry.errors import did_you_mean

from zoo_basics.options.losses import DeltaOptions
from zoo_basics.strategies.attention_maps import channel_attention, places
from zoo_basics.strategies.parts import counted_blocks

LAYERS = 4
"""So many blocks are compared where the recipe names none, evenly spaced and ending with the last."""


class DeltaPenalty(Strategy):
    """``alpha/2 * sum_l mean_b sum_c a_lc mean_xy (F_lc(x) - F0_lc(x))^2`` over the outputs ``F`` of chosen blocks.

    Li et al., DELTA: DEep Learning Transfer using Feature Map with Attention for Convolutional Networks, ICLR 2019
    (arXiv 1901.09229). ``F0`` are the maps of the pretrained network on the same input. Without ``attention`` all
    ``a_lc`` are 1. With it ``a_l = C * softmax_c(sharpness * (L(without filter c) - L))``: how much the pretrained
    network's loss rises where a filter's output is zero, through the head as it is when the phase begins, on the
    phase's first micro-batch. So attention asks for a head that has learned (``linear:3,full+delta:10``); with a fresh
    one it is even. It costs a forward pass a filter, once; it is kept in the checkpoint. One filter of many matters
    little: with the paper's ``sharpness`` of 1 the weights lay between 0.98 and 1.08 on a small CNN, between 0.99 and
    1.01 on a small ViT, both after a probe. That is why attention is off unless asked for.

    Maps [B, C, H, W], [B, H, W, C] and tokens [B, N, C] will do. The term is summed over filters and averaged over
    samples (the authors sum over a batch of 64). Their L2 on the new layers is the phase's weight decay.

    Args:
        options: ``alpha``, ``attention``, ``sharpness``, ``layers``.
    """

    def __init__(self, options: DeltaOptions) -> None:
        self.alpha, self.layers = options.alpha, options.layers
        self.attention, self.sharpness = options.attention, options.sharpness
        self.weights: dict[str, Tensor] = {}

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Choose the blocks and have their outputs kept.

        Raises:
            UsageError: a block is unknown, or is no module.
        """
        self.taps = tuple(last_module(model, block) for block in chosen_blocks(model, self.layers))
        reference = cast(Any, run.reference())
        reference.taps = tuple(dict.fromkeys((*reference.taps, *self.taps)))

    def penalty(self, model: TransferModel, batches: Mapping[str, Batch], run: Run) -> Losses:
        """``maps``, a scalar."""
        batch, reference = batches["train"], run.reference()
        if self.attention and not self.weights:
            self.weights = channel_attention(model, reference, batch, self.taps, self.sharpness)
        now = model(batch).taps
        with torch.no_grad():
            then = reference(batch).taps
        terms = [self._distance(tap, _output(now, tap), _output(then, tap)) for tap in self.taps]
        return {"maps": self.alpha / 2 * torch.stack(terms).sum()}

    def _distance(self, tap: str, now: Tensor, then: Tensor) -> Tensor:
        """``mean_b sum_c a_c mean_xy (now - then)^2``, in float32."""
        channels = (places(now).float() - places(then).float()).square().mean(2)
        if tap in self.weights:
            channels = channels * self.weights[tap].to(channels.device)
        return channels.sum(1).mean()

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """The layers and the cost."""
        weighed = ", each filter by what the loss loses without it" if self.attention else ""
        lines = [
            f"keeps the outputs of {', '.join(chosen_blocks(model, self.layers))} near those of the pretrained weights "
            f"(alpha {self.alpha:g}{weighed})",
            "one more forward pass a step",
        ]
        return (*lines, "before the first step one forward pass a filter") if self.attention else tuple(lines)

    def finish(self, model: TransferModel, run: Run) -> None:
        """The reference need not keep outputs any more."""
        reference = cast(Any, run.reference())
        reference.taps = tuple(tap for tap in reference.taps if tap not in self.taps)

    def state_dict(self) -> dict[str, Any]:
        """The attention, once it is known."""
        return {f"attention.{tap}": weights for tap, weights in self.weights.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The opposite."""
        self.weights = {name.removeprefix("attention."): weights for name, weights in state.items()}


def chosen_blocks(model: TransferModel, names: tuple[str, ...]) -> list[str]:
    """The blocks of these names, or :data:`LAYERS` of those that hold a matrix.

    Raises:
        UsageError: there is no such block.
    """
    known = list(model.blocks())
    for name in names:
        if name not in known:
            raise UsageError(
                f"strategy 'delta': the backbone has no block {name!r}",
                hint=did_you_mean(name, known) or f"blocks: {', '.join(known)}",
            )
    counted = counted_blocks(model)
    spread = dict.fromkeys(math.ceil((i + 1) * len(counted) / LAYERS) - 1 for i in range(LAYERS))
    return list(names) or [counted[place] for place in spread]


def last_module(model: TransferModel, block: str) -> str:
    """The name, within the backbone, of the last module that a block covers: its output is the block's.

    Raises:
        UsageError: the block is made of bare parameters.
    """
    modules = dict(model.backbone.named_modules())
    inside = [prefix.removeprefix("backbone.") for prefix in model.blocks()[block]]
    found = next((name for name in reversed(inside) if name in modules), None)
    if found is None:
        raise UsageError(f"strategy 'delta': block {block!r} is no module with an output", hint=_OTHERS)
    return found


_OTHERS = "name the blocks to compare: --set strategy.delta.layers=NAME,NAME"


def _output(taps: Mapping[str, Any], name: str) -> Tensor:
    """The tensor that a tapped module gave."""
    output = taps.get(name)
    if not isinstance(output, Tensor) or output.ndim < 2:
        what = "never ran" if output is None else f"gives a {type(output).__name__}, not maps or tokens"
        raise UsageError(f"strategy 'delta': {name!r} of the backbone {what}", hint=_OTHERS)
    return output


def build(spec: StrategySpec, options: DeltaOptions) -> DeltaPenalty:
    """The strategy ``delta``."""
    return DeltaPenalty(options)
