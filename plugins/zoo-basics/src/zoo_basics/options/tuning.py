"""The options of the strategies that say what learns and at which rates."""

from __future__ import annotations

from dataclasses import dataclass

from zoo_registry import option


@dataclass(frozen=True, kw_only=True)
class PartialOptions:
    """Options of the strategy ``partial``."""

    blocks: int = option(1, help="number of blocks at the end of the backbone that learn, with the head", low=1)


@dataclass(frozen=True, kw_only=True)
class GradualOptions:
    """Options of the strategy ``gradual``."""

    every: int | None = option(None, help="epochs from one block to the next; none: spread evenly up to until", low=1)
    until: float = option(
        0.5, help="share of the phase after which all blocks learn, where every is none", low=0.0, high=1.0
    )


@dataclass(frozen=True, kw_only=True)
class NormOptions:
    """Options of the strategy ``norm``."""

    statistics: bool = option(True, help="let BatchNorm's running mean and variance follow the data")


@dataclass(frozen=True, kw_only=True)
class LlrdOptions:
    """Options of the strategy ``llrd``."""

    decay: float = option(0.75, help="rate of a block as a share of the one behind it", low=0.01, high=1.0)
    floor: float = option(0.0, help="smallest share of the full rate, however deep the backbone", low=0.0, high=1.0)
