"""The strategy expression: ``linear:3,llrd+l2-sp:10``; ``+`` composes, ``,`` sequences, ``:N`` epochs, ``:Ns``
steps."""

from __future__ import annotations

import re

from zoo_registry import UsageError

from zoo.recipe.recipe import Component, PhaseRecipe

_LENGTH = re.compile(r"^(\d+)(s?)$")


def parse_strategy(text: str) -> tuple[PhaseRecipe, ...]:
    """The phases that an expression means, names unresolved.

    Raises:
        UsageError: names every part that does not parse.
    """
    phases: list[PhaseRecipe] = []
    problems: list[str] = []
    for number, part in enumerate(text.split(","), start=1):
        names, colon, length = part.strip().partition(":")
        members = [name.strip() for name in names.split("+")]
        if not all(members):
            problems.append(f"phase {number} ({part.strip()!r}) lacks a strategy name")
            continue
        match = _LENGTH.match(length.strip())
        if colon and not match:
            problems.append(f"phase {number}: {length!r} is no length (':10' is ten epochs, ':200s' 200 steps)")
            continue
        count = int(match.group(1)) if match else None
        if count == 0:
            problems.append(f"phase {number}: a length of 0 trains nothing")
            continue
        steps = bool(match and match.group(2))
        components = tuple(Component(name=name) for name in members)
        phases.append(
            PhaseRecipe(strategies=components, epochs=None if steps else count, steps=count if steps else None)
        )
    if problems:
        raise UsageError(
            f"--strategy {text!r}: " + "; ".join(problems), hint="for example: --strategy linear:3,full:10"
        )
    return tuple(phases)
