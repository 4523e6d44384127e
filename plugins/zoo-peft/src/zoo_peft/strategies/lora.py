"""LoRA: a low-rank update of each linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from zoo_registry import StrategySpec

from zoo_peft.adapter import import_peft
from zoo_peft.options import LoraOptions
from zoo_peft.strategies.base import PeftStrategy
from zoo_peft.targets import exact_pattern


class Lora(PeftStrategy):
    """The weight ``W`` [out, in] of each linear layer is frozen and gets an update of rank r that learns.

    Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022 (arXiv 2106.09685)::

        W' = W + alpha / r * B A        A [r, in], drawn uniformly as torch draws linear layers;  B [out, r], zero

    With ``rslora`` the factor is ``alpha / sqrt(r)`` (Kalajdzievski 2023, arXiv 2312.03732). Where the paper adapts the
    attention's query and value alone, all linear layers are adapted by default.

    Args:
        options: rank, alpha, dropout, rslora, and which layers.
    """

    method = "lora"
    magnitude = False

    def __init__(self, options: LoraOptions) -> None:
        super().__init__(options.blocks, options.layers)
        self.options = options

    def make_config(self, host: nn.Module, layers: Sequence[str], total_steps: int) -> Any:
        """A ``peft.LoraConfig``."""
        return import_peft().LoraConfig(
            r=self.options.rank,
            lora_alpha=self.options.alpha,
            lora_dropout=self.options.dropout,
            use_rslora=self.options.rslora,
            use_dora=self.magnitude,
            target_modules=exact_pattern(host, layers),
        )


def build(spec: StrategySpec, options: LoraOptions) -> Lora:
    """The strategy ``lora``."""
    return Lora(options)
