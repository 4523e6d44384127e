"""DoRA: magnitude and direction of a weight learn apart."""

from __future__ import annotations

from zoo_registry import StrategySpec

from zoo_peft.options import LoraOptions
from zoo_peft.strategies.lora import Lora


class Dora(Lora):
    """The weight ``W`` [out, in] of each linear layer is split in magnitude and direction; LoRA moves the direction.

    Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, ICML 2024 (arXiv 2402.09353)::

        V  = W + alpha / r * B A                        as in LoRA
        W' = m * V / |V|                                m [out] learns, from |W|;  |.| is the norm of each row

    The paper writes weights as [in, out], so that its columns are our rows: one magnitude per output. No gradient flows
    through ``|V|`` (its section 4.3).

    Args:
        options: rank, alpha, dropout, rslora, and which layers.
    """

    method = "dora"
    magnitude = True


def build(spec: StrategySpec, options: LoraOptions) -> Dora:
    """The strategy ``dora``."""
    return Dora(options)
