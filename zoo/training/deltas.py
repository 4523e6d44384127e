"""What the last phase changed, in the small form that a strategy may have of it, before ``finish`` merges it."""

from __future__ import annotations

import copy
from typing import Any

from zoo_registry import Delta, PluginError, StrategySpec
from zoo_registry.strategy import overrides

from zoo.training.checkpoint import clone_state
from zoo.training.run import Phase


def take_deltas(phase: Phase, model: Any) -> list[tuple[StrategySpec, Delta]]:
    """A copy of each strategy's ``delta``, in calling order; those that have none are left out.

    Raises:
        PluginError: a strategy returns something else, or stays a delta (``merges=False``) and has none.
    """
    found = []
    for spec, strategy in phase.parts:
        delta = strategy.delta(model) if overrides(strategy, "delta") else None
        if delta is not None and not isinstance(delta, Delta):
            raise PluginError(f"strategy {spec.name}: delta() returned {type(delta).__name__}, not a Delta")
        if delta is None and not spec.merges:
            raise PluginError(f"strategy {spec.name} stays a delta (merges=False), and its delta() returned none")
        if delta is not None:
            kept = Delta(
                method=delta.method, tensors=clone_state(delta.tensors), config=copy.deepcopy(dict(delta.config))
            )
            found.append((spec, kept))
    return found
