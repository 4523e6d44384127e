"""The ways to learn that are compared: a strategy expression each, of the same number of steps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Way:
    """A row of the table.

    Attributes:
        name: the row's name.
        strategy: the strategy expression; ``{n}`` is the row's number of steps, ``{a}`` a third and ``{b}`` the rest.
        group: heading under which the row stands.
        against: the row it is compared with, draw by draw.
        settings: ``KEY=VALUE`` texts where the row is not the default.
        pretrained: False starts from random weights.
        head: the head's name.
        longer: times the number of steps of the others.
        inverse: gives ``weighted`` the inverse square root of each class's number of labels.
    """

    name: str
    strategy: str
    group: str
    against: str | None = "full"
    settings: tuple[str, ...] = ()
    pretrained: bool = True
    head: str = "linear"
    longer: int = 1
    inverse: bool = False

    def settings_for(self, starter: str, labels: Sequence[int]) -> tuple[str, ...]:
        """``settings``, the rate where the row starts from scratch, and what depends on the classes drawn."""
        more = () if self.pretrained else (f"train.lr={SCRATCH[starter]}",)
        if self.inverse:
            weights = [f"{c}={1 / math.sqrt(n):.4f}" for c, n in sorted(Counter(labels).items())]
            more += (f"strategy.weighted.classes={','.join(weights)}",)
        return (*more, *self.settings)

    def expression(self, steps: int) -> str:
        """The strategy expression for so many steps."""
        total = steps * self.longer
        first = total // 3
        return self.strategy.format(n=f"{total}s", a=f"{first}s", b=f"{total - first}s")


SCRATCH = {"cnn": 0.003, "vit": 0.001}
"""Starter -> rate of the rows from scratch, picked by ``tune.py``; the strategies' own suit pretrained features."""


def _on_full(name: str, group: str) -> Way:
    return Way(name=name, strategy=f"full+{name}:{{n}}", group=group)


WAYS = {
    way.name: way
    for way in (
        Way(name="scratch", strategy="full:{n}", group="from scratch", pretrained=False),
        Way(name="scratch-long", strategy="full:{n}", group="from scratch", pretrained=False, longer=2),
        Way(name="linear", strategy="linear:{n}", group="what learns"),
        Way(name="partial", strategy="partial:{n}", group="what learns"),
        Way(name="full", strategy="full:{n}", group="what learns", against="scratch"),
        Way(name="lp-ft", strategy="linear:{a},full:{b}", group="what learns"),
        Way(name="gradual", strategy="gradual:{n}", group="what learns"),
        Way(name="bitfit", strategy="bitfit:{n}", group="what learns"),
        Way(name="norm", strategy="norm:{n}", group="what learns"),
        _on_full("llrd", "rates"),
        Way(name="lora", strategy="lora:{n}", group="adapters"),
        Way(name="lora-8", strategy="lora:{n}", group="adapters", settings=("strategy.lora.rank=8",)),
        Way(name="dora", strategy="dora:{n}", group="adapters"),
        Way(name="ia3", strategy="ia3:{n}", group="adapters"),
        Way(name="adalora", strategy="adalora:{n}", group="adapters"),
        *(_on_full(name, "penalties") for name in ("l2-sp", "delta", "bss")),
        Way(name="distill", strategy="full+distill:{n}", group="penalties",
            settings=("strategy.distill.teacher=linear",)),
        *(_on_full(name, "batches and images") for name in
          ("mixup", "cutmix", "label-smoothing", "trivial-augment", "rand-augment")),
        *(_on_full(name, "averages") for name in ("ema", "swa", "wise-ft")),
        Way(name="wise-ft-half", strategy="full+wise-ft:{n}", group="averages",
            settings=("strategy.wise-ft.alpha=0.5",)),
        Way(name="lp-ft+wise-ft", strategy="linear:{a},full+wise-ft:{b}", group="averages", against="lp-ft"),
        Way(
            name="lp-ft+wise-ft-recal",
            strategy="linear:{a},full+wise-ft:{b}",
            group="averages",
            against="lp-ft",
            settings=("strategy.wise-ft.statistics=recalibrated",),
        ),
        _on_full("sam", "optimisation"),
        *(_on_full(name, "imbalance") for name in ("class-balanced", "logit-adjustment", "focal")),
        Way(name="weighted", strategy="full+weighted:{n}", group="imbalance", inverse=True),
        *(Way(name=name, strategy="fit", group="heads that fit", head=name, against="linear")
          for name in ("prototype", "ridge", "knn")),
    )
}  # fmt: skip
