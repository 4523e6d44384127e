"""Named recipes in a strategy expression: ``lp-ft``, ``lp-ft:10``, ``lp-ft+l2-sp`` stand for the recipe's phases.

What is composed with a recipe, its length and a phase's own values join the recipe's last phase.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from zoo_registry import Entry, RecipePhase, RecipeSpec, Registry, StrategySpec, UsageError, ZooError
from zoo_registry.errors import UnknownNameError

from zoo.recipe.recipe import Component, PhaseRecipe

OWN = ("epochs", "steps", "rate", "decay", "warmup", "augment")
"""Values that a phase may bring along."""


def find_strategy(registry: Registry, name: str) -> Entry[StrategySpec]:
    """The strategy of that name; where there is none the error knows the recipes too.

    Raises:
        ZooError: see :meth:`zoo_registry.Registry.find`.
    """
    try:
        return registry.strategy(name)
    except UnknownNameError as error:
        if "did you mean" in (error.hint or ""):
            raise
        try:
            registry.recipe(name)
        except ZooError as other:
            if not isinstance(other, UnknownNameError) or "did you mean" in (other.hint or ""):
                raise type(other)(error.message, hint=other.hint) from None
        raise


def expand_recipes(
    phases: Iterable[PhaseRecipe], registry: Registry
) -> tuple[tuple[PhaseRecipe, ...], str | None, list[ZooError]]:
    """Put the phases of named recipes in their place.

    Returns:
        The phases; the head that goes with the recipes, where one names any; what is wrong.
    """
    expanded: list[PhaseRecipe] = []
    heads: dict[str, str] = {}
    errors: list[ZooError] = []
    for phase in phases:
        found = {c.name: recipe for c in phase.strategies if (recipe := _recipe(registry, c.name))}
        if not found:
            expanded.append(phase)
            continue
        names = " and ".join(entry.name for entry in found.values())
        if len(found) > 1:
            errors.append(UsageError(f"a phase has at most one recipe, got {names}", hint="separate them with ','"))
        if any(c.options for c in phase.strategies if c.name in found):
            errors.append(UsageError(f"recipe {names} has no options", hint="set those of its strategies"))
        entry = next(iter(found.values()))
        if entry.spec.head is not None:
            heads[entry.spec.head] = entry.name
        expanded += _joined(phase, entry.spec, [c for c in phase.strategies if c.name not in found])
    if len(heads) > 1:
        wanted = ", ".join(f"{recipe} goes with {head}" for head, recipe in heads.items())
        errors.append(UsageError(f"the recipes want different heads: {wanted}", hint="name one: --head"))
    return tuple(expanded), next(iter(heads), None), errors


def _recipe(registry: Registry, name: str) -> Entry[RecipeSpec] | None:
    """The recipe of that name, unless a strategy is called so."""
    try:
        registry.strategy(name)
    except ZooError:
        try:
            return registry.recipe(name)
        except ZooError:
            return None
    return None


def _joined(phase: PhaseRecipe, spec: RecipeSpec, others: list[Component]) -> list[PhaseRecipe]:
    """The recipe's phases, the last of them with what stood beside the recipe's name."""
    phases = [_phase(part) for part in spec.phases]
    own: dict[str, Any] = {name: value for name in OWN if (value := getattr(phase, name)) is not None}
    if "steps" in own:
        own["epochs"] = None
    phases[-1] = dataclasses.replace(phases[-1], strategies=(*phases[-1].strategies, *others), **own)
    return phases


def _phase(part: RecipePhase) -> PhaseRecipe:
    components = tuple(Component(name=name, options=dict(part.options.get(name, {}))) for name in part.strategies)
    return PhaseRecipe(
        strategies=components,
        epochs=part.epochs,
        rate=part.rate,
        decay=part.decay,
        warmup=part.warmup,
        augment=part.augment,
    )
