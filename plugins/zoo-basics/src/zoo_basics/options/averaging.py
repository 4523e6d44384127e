"""The options of the strategies that average weights."""

from __future__ import annotations

from dataclasses import dataclass

from zoo_registry import option


@dataclass(frozen=True, kw_only=True)
class EmaOptions:
    """Options of the strategy ``ema``."""

    decay: float = option(0.999, help="share of the average that a step leaves as it was", low=0.0, high=0.999999)
    warmup: bool = option(True, help="let the decay rise from 0 as 1 - t^(-2/3) at step t")


@dataclass(frozen=True, kw_only=True)
class SwaOptions:
    """Options of the strategy ``swa``."""

    start: float = option(0.75, help="share of the phase after which averaging begins", low=0.0, high=1.0)
    every: str = option("epoch", help="how often weights are taken into the average", choices=("epoch", "step"))


STATISTICS = ("interpolated", "recalibrated")


@dataclass(frozen=True, kw_only=True)
class WiseFtOptions:
    """Options of the strategy ``wise-ft``.

    Raises:
        ValueError: ``alpha`` is a text other than ``auto``.
    """

    alpha: float | str = option(
        "auto", help="share of the fine-tuned weights; auto: the smallest that validation allows", low=0.0, high=1.0
    )
    tolerance: float = option(
        0.005, help="how much of the main validation metric auto gives for a smaller alpha", low=0.0
    )
    statistics: str = option(
        "interpolated", help="BatchNorm statistics: as the weights, or from train", choices=STATISTICS
    )

    def __post_init__(self) -> None:
        if isinstance(self.alpha, str) and self.alpha != "auto":
            raise ValueError(f"alpha {self.alpha!r} is neither a number from 0 to 1 nor auto")
