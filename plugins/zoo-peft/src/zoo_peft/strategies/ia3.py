"""(IA)^3: learned factors on keys, values and hidden activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from zoo_registry import StrategySpec

from zoo_peft.adapter import import_peft
from zoo_peft.options import Ia3Options
from zoo_peft.strategies.base import PeftStrategy
from zoo_peft.targets import exact_pattern, linear_layer

SHORT = {"k", "v", "kv", "qkv", "key", "value", "query_key_value", "in_proj", "c_attn"}

KEYS_AND_VALUES = frozenset(SHORT | {f"{n}_proj" for n in SHORT} | {f"to_{n}" for n in SHORT})
"""What layers are called that compute keys or values."""


class Ia3(PeftStrategy):
    """Keys, values and the hidden activations of feed-forward networks are multiplied by learned factors.

    Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning, NeurIPS 2022
    (arXiv 2205.05638)::

        y = l * (x W^T + b)        l [out], from one: layers that compute keys or values
        y = (l * x) W^T + b        l [in], from one: layers that narrow (in > out), fed the hidden activations

    Where one layer computes query, key and value at once, its whole output has factors, which adds those of the query.
    A backbone with neither kind of layer has factors on the outputs of all its linear layers.

    Args:
        options: which layers.
    """

    method = "ia3"

    def __init__(self, options: Ia3Options) -> None:
        super().__init__(options.blocks, options.layers)

    def choose(self, host: nn.Module, layers: Sequence[str]) -> list[str]:
        """Of the linear layers those that get factors."""
        sizes = {name: linear_layer(host, name) for name in layers}
        meant = [n for n in layers if n.rpartition(".")[2] in KEYS_AND_VALUES or _narrows(sizes[n])]
        return meant or list(layers)

    def make_config(self, host: nn.Module, layers: Sequence[str], total_steps: int) -> Any:
        """A ``peft.IA3Config``."""
        named = [n for n in layers if n.rpartition(".")[2] in KEYS_AND_VALUES]
        fed = [n for n in layers if n not in named and _narrows(linear_layer(host, n))]
        return import_peft().IA3Config(
            target_modules=exact_pattern(host, layers),
            feedforward_modules=exact_pattern(host, fed, dotted=False),
        )


def _narrows(layer: nn.Linear) -> bool:
    return layer.in_features > layer.out_features


def build(spec: StrategySpec, options: Ia3Options) -> Ia3:
    """The strategy ``ia3``."""
    return Ia3(options)
