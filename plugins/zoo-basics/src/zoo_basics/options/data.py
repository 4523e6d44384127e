"""The options of the strategies that change the data: augment, sampling, batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zoo_registry import option

_PER = ("batch", "sample")


@dataclass(frozen=True, kw_only=True)
class TrivialAugmentOptions:
    """Options of the strategy ``trivial-augment``."""

    fill: int = option(0, help="grey value of what lies outside of the moved image", low=0, high=255)


@dataclass(frozen=True, kw_only=True)
class RandAugmentOptions:
    """Options of the strategy ``rand-augment``."""

    ops: int = option(2, help="number of changes made to each image", low=1, high=10)
    magnitude: int = option(9, help="their strength; 30 is the strongest", low=0, high=30)
    fill: int = option(0, help="grey value of what lies outside of the moved image", low=0, high=255)


@dataclass(frozen=True, kw_only=True)
class MixupOptions:
    """Options of the strategy ``mixup``."""

    alpha: float = option(0.2, help="both parameters of the beta distribution of shares; 1 is uniform", low=0.01)
    prob: float = option(1.0, help="probability that a batch (or sample) is mixed", low=0.0, high=1.0)
    per: str = option("batch", help="one share for the whole batch, or one for each sample", choices=_PER)


@dataclass(frozen=True, kw_only=True)
class CutmixOptions:
    """Options of the strategy ``cutmix``."""

    alpha: float = option(1.0, help="both parameters of the beta distribution of shares; 1 is uniform", low=0.01)
    prob: float = option(1.0, help="probability that a batch (or sample) is mixed", low=0.0, high=1.0)
    per: str = option("batch", help="one box for the whole batch, or one for each sample", choices=_PER)


@dataclass(frozen=True, kw_only=True)
class LabelSmoothingOptions:
    """Options of the strategy ``label-smoothing``."""

    amount: float = option(0.1, help="share of a label that is spread over all classes", low=0.0, high=0.9)


@dataclass(frozen=True, kw_only=True)
class ClassBalancedOptions:
    """Options of the strategy ``class-balanced``."""

    power: float = option(1.0, help="1: all classes come equally often; 0: as they are", low=0.0, high=2.0)
    beta: float | None = option(
        None, help="count by the effective number of samples (0.9 to 0.9999)", low=0.0, high=0.999999
    )
    column: str | None = option(None, help="the target column to go by; the first with classes by default")


@dataclass(frozen=True, kw_only=True)
class WeightedOptions:
    """Options of the strategy ``weighted``.

    Raises:
        ValueError: an entry of ``classes`` is not ``NAME=WEIGHT``, or a class is named twice.
    """

    classes: tuple[str, ...] = option((), help="weights of classes, as cat=2,dog=0.5; 1 where not named")
    column: str | None = option(None, help="the target column of these classes; the first with classes by default")

    def __post_init__(self) -> None:
        names = [class_weight(text)[0] for text in self.classes]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"classes names {twice[0]!r} twice")


def class_weight(text: str) -> tuple[str, float]:
    """``cat=2`` as name and weight.

    Raises:
        ValueError: not of this form, or no finite number from 0 on.
    """
    name, equals, number = text.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not equals or not name.strip() or not 0 <= weight < math.inf:
        raise ValueError(f"classes entry {text!r} is not NAME=WEIGHT with a weight from 0 on, as cat=2")
    return name.strip(), weight
