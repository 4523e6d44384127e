"""``--set KEY=VALUE``: which part of the recipe a key means, by its root; ``tracker`` is none of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from zoo_registry.errors import did_you_mean

from zoo.recipe.recipe import Component, PhaseRecipe, Recipe

ROOTS = ("backbone", "head", "strategy", "data", "train", "tracker")
PHASE_KEYS = ("rate", "decay", "warmup", "augment")


def split_settings(settings: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """``KEY=VALUE`` texts as a mapping, and what is wrong with them."""
    found: dict[str, str] = {}
    problems: list[str] = []
    for text in settings:
        key, equals, value = text.partition("=")
        root = key.partition(".")[0]
        if not equals or "." not in key:
            problems.append(f"--set {text!r} is not KEY=VALUE, such as --set train.clip=0.5")
        elif root not in ROOTS:
            problems.append(f"--set {key!r}: {did_you_mean(root, ROOTS) or 'roots: ' + ', '.join(ROOTS)}")
        else:
            found[key] = value
    return found, problems


def under_root(settings: Mapping[str, str], root: str) -> dict[str, str]:
    """The settings under ``root``, without it."""
    return {key.partition(".")[2]: value for key, value in settings.items() if key.partition(".")[0] == root}


def apply_strategy_settings(recipe: Recipe, settings: Mapping[str, str]) -> tuple[Recipe, list[str]]:
    """Put ``strategy.NAME.OPTION`` (every phase) and ``strategy.2.NAME.OPTION`` (the second) into the phases.

    ``strategy.2.rate=1e-3`` sets a phase's own rate, decay, warmup or augment.
    """
    problems: list[str] = []
    phases: list[PhaseRecipe] = list(recipe.phases)
    for key, value in under_root(settings, "strategy").items():
        number, _, rest = key.partition(".")
        chosen = range(len(phases))
        if number.isdigit():
            if not 1 <= int(number) <= len(phases):
                problems.append(f"strategy.{key}: there is no phase {number}, the recipe has {len(phases)}")
                continue
            chosen = range(int(number) - 1, int(number))
        else:
            rest = key
        if rest in PHASE_KEYS:
            for index in chosen:
                changed: dict[str, Any] = {rest: value}  # a text until the recipe is resolved
                phases[index] = dataclasses.replace(phases[index], **changed)
            continue
        name, _, option_name = rest.rpartition(".")
        hit = False
        for index in chosen:
            phases[index], found = _set_option(phases[index], name, option_name, value)
            hit = hit or found
        if not hit:
            known = sorted({short(c.name) for index in chosen for c in phases[index].strategies})
            close = did_you_mean(name or option_name, known) or f"strategies: {', '.join(known)}"
            problems.append(f"strategy.{key}: no strategy {name or option_name!r} in the recipe ({close})")
    return dataclasses.replace(recipe, phases=tuple(phases)), problems


def short(name: str) -> str:
    """The local part of a full name."""
    return name.rpartition("/")[2]


def _set_option(phase: PhaseRecipe, name: str, option_name: str, value: Any) -> tuple[PhaseRecipe, bool]:
    found = False
    components: list[Component] = []
    for component in phase.strategies:
        if name in (component.name, short(component.name)):
            component = dataclasses.replace(component, options={**component.options, option_name: value})
            found = True
        components.append(component)
    return dataclasses.replace(phase, strategies=tuple(components)), found
