"""Full, short, ambiguous, unknown, aliased and deprecated names; lazy factories."""

from __future__ import annotations

import pytest
from zoo_registry import (
    AmbiguousNameError,
    BackboneSpec,
    HeadSpec,
    Plugin,
    PluginError,
    Registry,
    StrategySpec,
    UnknownNameError,
)
from zoo_registry.errors import did_you_mean


def head(name: str, **arguments) -> HeadSpec:
    return HeadSpec(name=name, summary="a head for tests", factory="json:dumps", **arguments)


def plugin(namespace: str, *heads: HeadSpec, **specs) -> Plugin:
    made = Plugin(namespace=namespace, distribution=f"zoo-{namespace}", version="1.0")
    made.specs |= {"head": list(heads), **specs}
    return made


def off(namespace: str, status: str) -> Plugin:
    made = plugin(namespace)
    if status == "broken":
        made.fail("import", "ImportError: no moon")
    made.status = status
    return made


@pytest.fixture
def registry() -> Registry:
    backbone = BackboneSpec(name="net", summary="a backbone", factory="json:loads", features={"pooled": 4})
    tuning = StrategySpec(name="full", summary="a strategy", factory="json:loads")
    return Registry(
        [
            plugin("one", head("linear", aliases=("probe",)), head("mlp"), backbone=[backbone], strategy=[tuning]),
            plugin("two", head("linear"), head("old", deprecated="use one/mlp")),
            off("gone", "broken"),
            off("quiet", "disabled"),
        ]
    )


def test_names_are_full_and_ordered(registry: Registry):
    assert list(registry.names("head")) == ["one/linear", "one/mlp", "two/linear", "two/old"]
    assert [entry.name for entry in registry.entries("backbone")] == ["one/net"]


@pytest.mark.parametrize(
    ("asked", "full"),
    [("one/linear", "one/linear"), ("mlp", "one/mlp"), ("probe", "one/linear"), ("one/probe", "one/linear")],
)
def test_a_name_that_means_one_thing(registry: Registry, asked: str, full: str):
    assert registry.head(asked).name == full


def test_the_same_name_in_another_kind_is_no_clash(registry: Registry):
    assert registry.backbone("net").spec.features == {"pooled": 4}
    assert registry.strategy("full").kind == "strategy"


def test_a_deprecated_name_still_works_and_says_so(registry: Registry):
    assert registry.head("old").spec.deprecated == "use one/mlp"


def test_an_ambiguous_short_name_lists_the_candidates(registry: Registry):
    with pytest.raises(AmbiguousNameError, match="head 'linear' is offered by several plugins") as caught:
        registry.head("linear")
    assert caught.value.hint == "write the full name: one/linear or two/linear"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("kind", "asked", "hint"),
    [
        ("head", "liner", "did you mean 'linear'?"),
        ("head", "one/liner", "did you mean 'one/linear'"),
        ("head", "three/linear", "did you mean"),
        ("head", "three/zzz", "no plugin 'three' is installed"),
        ("head", "full", "'full' is a strategy"),
        ("strategy", "zzz", "zoo list strategies shows all (gone, quiet is off: zoo plugin list)"),
        ("backbone", "", "zoo list backbones shows all"),
    ],
)
def test_an_unknown_name_gets_a_next_step(registry: Registry, kind: str, asked: str, hint: str):
    with pytest.raises(UnknownNameError, match=f"unknown {kind} {asked!r}") as caught:
        registry.find(kind, asked)
    assert hint in str(caught.value.hint)


def test_a_name_of_a_broken_plugin_fails_with_the_original_reason(registry: Registry):
    with pytest.raises(PluginError, match="import: ImportError: no moon") as caught:
        registry.head("gone/linear")
    assert caught.value.exit_code == 7
    with pytest.raises(PluginError, match=r"'quiet' .* is disabled by ZOO_PLUGINS"):
        registry.head("quiet/linear")


def test_a_factory_is_imported_when_asked_for(registry: Registry):
    import json

    assert registry.head("mlp").factory() is json.dumps


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("surely_not_there:build", "No module named 'surely_not_there'"),
        ("json:nothing", "has no attribute 'nothing'"),
        ("json:__name__", "is not callable"),
    ],
)
def test_a_factory_that_cannot_be_had_names_reference_and_reason(reference: str, reason: str):
    spec = HeadSpec(name="bad", summary="a head for tests", factory=reference)
    with pytest.raises(PluginError, match="one/bad") as caught:
        Registry([plugin("one", spec)]).head("bad").factory()
    assert reference in caught.value.message
    assert reason in caught.value.message


def test_did_you_mean_prefers_what_starts_alike():
    assert did_you_mean("resnet", ["resnet18.a1_in1k", "resnest14d", "vit"]) == (
        "did you mean 'resnet18.a1_in1k', 'resnest14d'?"
    )
    assert did_you_mean("xyz", ["resnet18"]) is None
    assert did_you_mean("", ["resnet18"]) is None
