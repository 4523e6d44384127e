"""Named recipes: where their phases go, what joins them, and what is wrong with some."""

from __future__ import annotations

import dataclasses

import pytest
from zoo_registry import (
    HeadSpec,
    Paper,
    RecipePhase,
    RecipeSpec,
    Registry,
    StrategySpec,
    UsageError,
    ZooError,
    option,
)
from zoo_registry.conformance import recipe_checks
from zoo_registry.discovery import Plugin

from zoo.planning import Request, make_plan
from zoo.recipe import parse_strategy
from zoo.recipe.named import expand_recipes, find_strategy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warmth:
    heat: float = option(1.0, help="how warm", low=0.0)


def strategy(name: str, role: str = "tuning") -> StrategySpec:
    return StrategySpec(name=name, summary="a strategy of the test", factory="x:y", role=role, options=Warmth)


GENTLE = RecipeSpec(
    name="gentle",
    summary="slow, then fast",
    phases=(
        RecipePhase(strategies=("own/slow",), epochs=2, options={"own/slow": {"heat": 0.5}}),
        RecipePhase(strategies=("own/fast",), rate=0.01, augment="light"),
    ),
    head="own/plain",
    aliases=("soft",),
    paper=Paper(title="Softly", year=2020, link="https://example.org"),
)
OTHER = RecipeSpec(name="other", summary="with another head", phases=GENTLE.phases[:1], head="own/rich")


def registry(*recipes: RecipeSpec) -> Registry:
    plugin = Plugin(namespace="own", distribution="zoo-own", version="1.0")
    plugin.specs["strategy"] = [strategy("slow"), strategy("fast"), strategy("pull", "penalty")]
    plugin.specs["head"] = [HeadSpec(name=n, summary="a head", factory="x:y") for n in ("plain", "rich")]
    plugin.specs["recipe"] = list(recipes or (GENTLE, OTHER))
    return Registry([plugin])


def labels(text: str) -> list[str]:
    phases, _, errors = expand_recipes(parse_strategy(text), registry())
    assert errors == []
    return [phase.label() for phase in phases]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gentle", ["slow:2", "fast"]),
        ("own/gentle", ["slow:2", "fast"]),
        ("soft:7", ["slow:2", "fast:7"]),
        ("gentle:30s", ["slow:2", "fast:30s"]),
        ("pull+gentle:7", ["slow:2", "fast+pull:7"]),
        ("slow:1,gentle,fast:3", ["slow:1", "slow:2", "fast", "fast:3"]),
        ("slow,fast:3", ["slow", "fast:3"]),
    ],
)
def test_a_name_stands_for_its_phases_and_the_last_takes_what_stood_beside_it(text: str, expected: list[str]):
    assert labels(text) == expected


def test_steps_of_the_user_replace_epochs_of_the_recipe():
    phases, _, _ = expand_recipes(parse_strategy("other:9s"), registry())
    assert [(p.epochs, p.steps) for p in phases] == [(None, 9)]


def test_values_and_options_come_along():
    phases, head, _ = expand_recipes(parse_strategy("gentle"), registry())
    assert phases[0].strategies[0].options == {"heat": 0.5}
    assert (phases[1].rate, phases[1].augment, head) == (0.01, "light", "own/plain")
    phases[0].strategies[0].options["heat"] = 3.0  # the plan's own copy
    assert GENTLE.phases[0].options == {"own/slow": {"heat": 0.5}}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("gentle+other", "at most one recipe, got own/gentle and own/other"),
        ("gentle,other", "want different heads: own/gentle goes with own/plain, own/other goes with own/rich"),
    ],
)
def test_what_recipes_cannot_do_is_said(text: str, part: str):
    _, _, errors = expand_recipes(parse_strategy(text), registry())
    assert [part in error.message for error in errors] == [True]


def test_a_recipe_has_no_options():
    phase = parse_strategy("gentle")[0]
    given = dataclasses.replace(phase, strategies=(dataclasses.replace(phase.strategies[0], options={"heat": 2}),))
    _, _, errors = expand_recipes([given], registry())
    assert "recipe own/gentle has no options" in errors[0].message


@pytest.mark.parametrize(("name", "hint"), [("gentl", "'gentle'"), ("slwo", "'slow'"), ("xyz", "zoo list strategies")])
def test_an_unknown_name_offers_recipes_too(name: str, hint: str):
    with pytest.raises(ZooError) as caught:
        find_strategy(registry(), name)
    assert hint in str(caught.value.hint)
    assert f"unknown strategy {name!r}" in caught.value.message


@pytest.mark.parametrize(
    "phases", [(), (RecipePhase(strategies=()),), (RecipePhase(strategies=("own/fast",)), RecipePhase(strategies=()))]
)
def test_a_recipe_without_anything_to_do_is_none(phases: tuple[RecipePhase, ...]):
    with pytest.raises(ValueError, match="at least one"):
        RecipeSpec(name="empty", summary="a recipe of nothing", phases=phases)


# ------------------------------------------------------------------ the checks, each with a mistake


@pytest.mark.parametrize(
    ("changes", "check", "message"),
    [
        ({"name": "fast"}, "name_is_no_strategys", "called so too: fast"),
        ({"aliases": ("slow",)}, "name_is_no_strategys", "called so too: slow"),
        ({"phases": (RecipePhase(strategies=("own/gone",)),)}, "parts_exist_and_compose", "unknown strategy"),
        ({"phases": (RecipePhase(strategies=("fast",)),)}, "parts_exist_and_compose", "'fast' is no full name"),
        ({"phases": (RecipePhase(strategies=("own/fast", "own/slow")),)}, "parts_exist_and_compose", "at most one"),
        (
            {"phases": (RecipePhase(strategies=("own/fast",), options={"own/fast": {"heat": -1}}),)},
            "parts_exist_and_compose",
            "heat",
        ),
        (
            {"phases": (RecipePhase(strategies=("own/fast",), options={"own/slow": {}}),)},
            "parts_exist_and_compose",
            "own/slow, which is not in it",
        ),
        ({"head": "plain"}, "parts_exist_and_compose", "'plain' is no full name"),
    ],
)
def test_a_bad_recipe_fails_its_check(changes: dict, check: str, message: str, monkeypatch: pytest.MonkeyPatch):
    found = registry(dataclasses.replace(GENTLE, **changes))
    monkeypatch.setattr(recipe_checks, "Registry", lambda: found)
    with pytest.raises((AssertionError, UsageError), match=message):
        getattr(recipe_checks, check)(found.entries("recipe")[0])


def test_a_good_recipe_passes(monkeypatch: pytest.MonkeyPatch):
    found = registry()
    monkeypatch.setattr(recipe_checks, "Registry", lambda: found)
    for entry in found.entries("recipe"):
        for check in recipe_checks.applicable(entry):
            check(entry)


# ------------------------------------------------------------------ installed ones


def test_a_plan_takes_the_phases_and_settings_count_them():
    request = Request(data="digits:", backbone="starter/cnn", strategy="lp-ft:4", settings=("strategy.2.rate=0.002",))
    recipe = make_plan(request, Registry()).recipe
    assert recipe.label().endswith(",full:4")
    assert recipe.label().startswith("linear:")
    assert recipe.phases[1].rate == 0.002
