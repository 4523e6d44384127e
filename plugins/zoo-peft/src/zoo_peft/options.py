"""The options of the strategies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zoo_registry import option

MAX_RANK = 1024


def _blocks() -> Any:
    return option(None, help="adapt the last so many blocks that hold linear layers; none adapts all", low=1)


def _layers() -> Any:
    return option((), help="adapt only layers whose name, or the end of it, matches one of these, e.g. qkv,mlp.*")


def _dropout() -> Any:
    return option(0.0, help="share of the adapter's inputs that is dropped in training", low=0.0, high=0.95)


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """Options of the strategies ``lora`` and ``dora``."""

    rank: int = option(4, help="rank of the update of each layer", low=1, high=MAX_RANK)
    alpha: float = option(8.0, help="the update is scaled by alpha / rank", low=1e-3)
    dropout: float = _dropout()
    rslora: bool = option(False, help="scale by alpha / sqrt(rank), for large ranks (arXiv 2312.03732)")
    blocks: int | None = _blocks()
    layers: tuple[str, ...] = _layers()


@dataclass(frozen=True, kw_only=True)
class Ia3Options:
    """Options of the strategy ``ia3``."""

    blocks: int | None = _blocks()
    layers: tuple[str, ...] = _layers()


@dataclass(frozen=True, kw_only=True)
class AdaloraOptions:
    """Options of the strategy ``adalora``."""

    rank: int = option(4, help="average rank of the layers at the end", low=1, high=MAX_RANK)
    initial_rank: int = option(6, help="rank of every layer at the start, above 'rank'", low=2, high=MAX_RANK)
    alpha: float = option(8.0, help="the update is scaled by alpha / initial_rank", low=1e-3)
    dropout: float = _dropout()
    start: float = option(0.1, help="share of the phase's steps before ranks begin to shrink", low=0.0, high=0.99)
    settle: float = option(0.3, help="share of the phase's steps after ranks are final", low=0.0, high=0.99)
    every: int = option(1, help="steps between two allocations of the ranks", low=1)
    beta1: float = option(0.85, help="smoothing of the importance of a weight", low=0.01, high=0.99)
    beta2: float = option(0.85, help="smoothing of its uncertainty", low=0.01, high=0.99)
    orthogonal: float = option(0.5, help="weight of the penalty that keeps the factors orthogonal", low=0.0)
    blocks: int | None = _blocks()
    layers: tuple[str, ...] = _layers()

    def __post_init__(self) -> None:
        if self.initial_rank <= self.rank:
            raise ValueError(f"initial_rank={self.initial_rank} must be above rank={self.rank}")
        if self.start + self.settle >= 1:
            raise ValueError(f"start={self.start:g} and settle={self.settle:g} leave no steps to shrink in")
