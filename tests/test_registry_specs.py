"""Specs refuse nonsense when they are made; errors carry kind and exit code; the public names are true."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import pytest
import zoo_registry
from zoo_registry import (
    BackboneSpec,
    Column,
    Fact,
    HeadSpec,
    NoOptions,
    StrategySpec,
    Weights,
    ZooError,
)
from zoo_registry import errors as error_module

GOOD = {"name": "x", "summary": "something", "factory": "package.module:build"}


@pytest.mark.parametrize(
    ("spec", "changes", "reason"),
    [
        (HeadSpec, {"name": "a/b"}, "is no name"),
        (HeadSpec, {"name": ""}, "is no name"),
        (HeadSpec, {"name": "x\n"}, "is no name"),
        (HeadSpec, {"aliases": ("fine", "not fine")}, "'not fine' is no name"),
        (HeadSpec, {"factory": "module.build"}, "not 'package.module:callable'"),
        (HeadSpec, {"factory": "module:a:b"}, "not 'package.module:callable'"),
        (HeadSpec, {"summary": "two\nlines"}, "one line"),
        (HeadSpec, {"summary": ""}, "one line"),
        (HeadSpec, {"options": dict}, "not a dataclass"),
        (BackboneSpec, {}, "no features"),
        (BackboneSpec, {"features": {"pooled": 3, "smell": 4}}, "smell"),
        (BackboneSpec, {"features": {"pooled": 3}, "capabilities": frozenset({"fly"})}, "fly"),
        (StrategySpec, {"role": "magic"}, "role 'magic' is not one of tuning"),
        (StrategySpec, {"touches": frozenset({"soul"})}, "soul"),
    ],
)
def test_nonsense_is_refused_when_the_spec_is_made(spec, changes, reason):
    with pytest.raises(ValueError, match=reason):
        spec(**{**GOOD, **changes})


def test_specs_are_frozen_and_keyword_only():
    spec = HeadSpec(**GOOD)
    assert spec.options is NoOptions
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.name = "other"
    with pytest.raises(TypeError):
        HeadSpec("x", "summary", "a:b")


@pytest.mark.parametrize(
    ("weights", "where"),
    [
        (Weights(repo="timm/x"), "hub"),
        (Weights(package="zoo_starter", resource="x.safetensors"), "package"),
        (Weights(repo="timm/x", unsafe="only a pickle"), "none"),
        (Weights(), "none"),
    ],
)
def test_where_weights_are(weights: Weights, where: str):
    assert weights.where == where


def test_facts_and_columns():
    spec = BackboneSpec(**GOOD, features={"pooled": 4}, facts=(Fact(name="top1", value=80.5, source="a file"),))
    assert spec.fact("top1") == 80.5
    assert spec.fact("top5") is None
    assert Column(name="y", classes=("a", "b", "c")).size == 3
    assert Column(name="y", kind="regression").size == 1


def subclasses(root: type) -> set[type]:
    return {root}.union(*(subclasses(child) for child in root.__subclasses__()))


def test_every_error_has_its_own_kind_and_stands_in_the_tree():
    tree = [e for e in subclasses(ZooError) if e.__module__ == error_module.__name__]
    assert len({e.kind for e in tree}) == len(tree) == 10
    assert {e.exit_code for e in tree} == set(range(1, 9))
    for error in tree:
        [line] = [line for line in error_module.__doc__.splitlines() if f" {error.__name__} " in f"{line} "]
        numbers = [word for word in line.split() if word.isdigit()]
        assert numbers in ([], [str(error.exit_code)])


def test_an_error_in_json():
    error = error_module.HubError("gone", hint="try again")
    assert error.to_json() == {"kind": "hub", "message": "gone", "hint": "try again"}
    assert str(error) == "gone"


def modules() -> list[str]:
    found = pkgutil.walk_packages(zoo_registry.__path__, "zoo_registry.")
    return ["zoo_registry", *(module.name for module in found)]


@pytest.mark.parametrize("name", modules())
def test_all_is_true(name: str):
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", [])
    assert len(set(listed)) == len(listed)
    assert [entry for entry in listed if not hasattr(module, entry)] == []


def test_everything_public_of_the_package_is_in_all():
    public = {
        name
        for name, value in vars(zoo_registry).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("zoo_registry")
    }
    assert public <= set(zoo_registry.__all__)
