"""Checks of a named recipe; they need no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from zoo_registry.conformance.spec_checks import require
from zoo_registry.options import check_options
from zoo_registry.registry import Entry, Registry
from zoo_registry.specs import RecipeSpec
from zoo_registry.strategy import order_problems

RecipeEntry = Entry[RecipeSpec]


def applicable(entry: RecipeEntry) -> Iterator[Callable[[RecipeEntry], None]]:
    """The checks of this module."""
    yield name_is_no_strategys
    yield parts_exist_and_compose


def name_is_no_strategys(entry: RecipeEntry) -> None:
    """Recipes and strategies are written in the same place, so one name means one of them."""
    taken = {
        name
        for other in Registry().entries("strategy")
        if other.namespace == entry.namespace
        for name in (other.spec.name, *other.spec.aliases)
    }
    clash = sorted({entry.spec.name, *entry.spec.aliases} & taken)
    require(not clash, f"strategies of the same plugin are called so too: {', '.join(clash)}")


def parts_exist_and_compose(entry: RecipeEntry) -> None:
    """Strategies and head are installed under their full names, options are valid, each phase can be composed."""
    registry = Registry()
    if entry.spec.head is not None:
        require(registry.head(entry.spec.head).name == entry.spec.head, f"{entry.spec.head!r} is no full name")
    for number, phase in enumerate(entry.spec.phases, start=1):
        entries = [registry.strategy(name) for name in phase.strategies]
        for name, found in zip(phase.strategies, entries, strict=True):
            require(found.name == name, f"phase {number}: {name!r} is no full name, {found.name!r} is")
            _, problems = check_options(found.spec.options, phase.options.get(name, {}), where=name)
            require(not problems, f"phase {number}: {'; '.join(problems)}")
        strangers = sorted(set(phase.options) - set(phase.strategies))
        require(not strangers, f"phase {number} has options of {', '.join(strangers)}, which is not in it")
        problems = order_problems([found.spec for found in entries])
        require(not problems, f"phase {number}: {'; '.join(problems)}")
