"""The options of a timm backbone. Free of torch: they are read when the zoo only lists."""

from __future__ import annotations

from dataclasses import dataclass

from zoo_registry import option


@dataclass(frozen=True, kw_only=True)
class TimmOptions:
    """What may be set on a timm backbone: ``--set backbone.drop_path_rate=0.1``."""

    drop_path_rate: float | None = option(
        None, help="stochastic depth: the chance that a residual branch is skipped; none: timm's own", low=0, high=0.99
    )
    drop_rate: float | None = option(None, help="dropout of the pooled features; none: timm's own", low=0, high=0.99)
    grad_checkpointing: bool = option(
        False, help="recompute activations in the backward pass: less memory, about a third more time"
    )
    model_args: str = option("", help="arguments of timm's constructor that give it another shape, as a JSON object")
