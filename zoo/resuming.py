"""What may be said beside ``--resume``: a run goes on by its own recipe; what would change its result is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo_registry import UsageError

from zoo.planning import PHASE_VALUES, Request
from zoo.recipe import Recipe
from zoo.recipe.toml import recipe_to_dict

FREE = frozenset(
    {
        "data.max_bad", "data.source", "data.strict", "train.cache", "train.cache_gb", "train.checkpoint_every",
        "train.features_gb", "train.workers",
    }
)  # fmt: skip
"""Settings that change how a run proceeds, and no bit of what it comes to."""

Change = tuple[str, Any, Any]
"""Name of a setting, its value in the run's recipe, and the one that is asked for."""


def changes(known: Recipe, asked: Recipe) -> list[Change]:
    """What differs between two resolved recipes, by name.

    Values that only are the defaults of phases (``train.lr``) count where a phase differs by them.
    """
    before, after = dict(_flat(recipe_to_dict(known))), dict(_flat(recipe_to_dict(asked)))
    names = [name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name)]
    phases = [name for name in names if name.startswith("phase.")]
    found = [(name, before.get(name), after.get(name)) for name in names]
    if known.label() != asked.label():
        found = [change for change in found if change[0] not in phases]
        return [("strategy", known.label(), asked.label()), *found]
    idle = {f"train.{name}" for name in PHASE_VALUES} if not phases else set()
    return [change for change in found if change[0] not in idle]


def settle_changes(folder: Path, known: Recipe, asked: Recipe) -> list[str]:
    """A line for each setting that a resumed run takes on.

    Raises:
        UsageError: some would change the result; names them all, old and new.
    """
    found = changes(known, asked)
    refused = [change for change in found if change[0] not in FREE]
    if refused:
        raise UsageError(
            f"the run in {str(folder)!r} was started with other settings, and these would change its result: "
            + "; ".join(map(shown, refused)),
            hint="leave them out, or start a new run with them (--recipe takes the run's recipe.toml)",
        )
    return [f"from now on {shown(change)}; the result stays the same" for change in found]


def resumed_request(request: Request | None, recipe: Recipe, data: Any) -> Request:
    """What was said beside ``--resume``, on top of the run's recipe.

    Raises:
        UsageError: another recipe was given.
    """
    asked = request or Request()
    if asked.recipe is not None:
        raise UsageError("--resume goes on by the run's own recipe, so --recipe cannot be given with it")
    return dataclasses.replace(asked, recipe=recipe, data=data if data is not None else asked.data)


def shown(change: Change) -> str:
    """``train.lr: 0.001 -> 0.01``."""
    name, before, after = change
    return f"{name}: {_text(before)} -> {_text(after)}"


def _text(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by their dotted names; phases and strategies are counted from 1, as in ``strategy.2.l2-sp.alpha``."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(part, Mapping) for part in value):
        for index, part in enumerate(value, 1):
            yield from _flat(part, f"{name}.{index}")
    else:
        yield name, list(value) if isinstance(value, tuple) else value
