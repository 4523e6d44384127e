"""The options of the strategies that change the loss: objective, penalty."""

from __future__ import annotations

from dataclasses import dataclass

from zoo_registry import option


@dataclass(frozen=True, kw_only=True)
class L2SpOptions:
    """Options of the strategy ``l2-sp``."""

    alpha: float = option(1.0, help="strength of the pull of the backbone to the anchor", low=0.0)
    beta: float = option(0.01, help="strength of the pull of the head to zero", low=0.0)
    anchor: str = option("base", help="pretrained weights, or those at the phase's start", choices=("base", "start"))


@dataclass(frozen=True, kw_only=True)
class DeltaOptions:
    """Options of the strategy ``delta``."""

    alpha: float = option(0.01, help="strength of the pull of the feature maps to the pretrained ones", low=0.0)
    attention: bool = option(False, help="weigh filters by how much the loss rises without them")
    sharpness: float = option(1.0, help="factor of these rises: at 1 the weights are nearly even", low=0.0)
    layers: tuple[str, ...] = option((), help="names of the blocks compared; none: four, evenly spaced up to the last")


@dataclass(frozen=True, kw_only=True)
class BssOptions:
    """Options of the strategy ``bss``."""

    alpha: float = option(0.001, help="strength of the term", low=0.0)
    k: int = option(1, help="how many of the smallest singular values are shrunk", low=1)


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """Options of the strategy ``distill``."""

    teacher: str = option("", help="a run folder, a bundle folder, or owner/name[@revision]", required=True)
    alpha: float = option(1.0, help="weight of the term beside the supervised loss", low=0.0)
    temperature: float = option(2.0, help="softens both distributions; the term is scaled by its square", low=0.01)


@dataclass(frozen=True, kw_only=True)
class SamOptions:
    """Options of the strategy ``sam``."""

    rho: float = option(0.05, help="radius of the neighbourhood; about ten times larger where adaptive", low=0.0)
    adaptive: bool = option(False, help="scale the neighbourhood by the size of each weight (ASAM)")


@dataclass(frozen=True, kw_only=True)
class FocalOptions:
    """Options of the strategy ``focal``.

    Raises:
        ValueError: ``alpha`` is a text other than ``balanced``.
    """

    gamma: float = option(2.0, help="how much less counts what is already right; 0 is the plain loss", low=0.0, high=10)
    alpha: float | str | None = option(
        None, help="weight of labels that apply (multilabel), or balanced: classes by inverse size", low=0.0, high=1.0
    )

    def __post_init__(self) -> None:
        if isinstance(self.alpha, str) and self.alpha != "balanced":
            raise ValueError(f"alpha {self.alpha!r} is neither a number from 0 to 1 nor balanced")


@dataclass(frozen=True, kw_only=True)
class LogitAdjustmentOptions:
    """Options of the strategy ``logit-adjustment``."""

    tau: float = option(1.0, help="strength; 1 aims at the balanced error, 0 is the plain loss", low=0.0, high=10)
