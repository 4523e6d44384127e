"""The Strategy base class does nothing; what composes, in which order, and when features may be cached."""

from __future__ import annotations

import inspect

import pytest
from zoo_registry import Strategy, StrategySpec, Stream, UsageError
from zoo_registry.specs import ROLES
from zoo_registry.strategy import cacheable, compose, merge_streams, order_problems, overrides


def spec(name: str, role: str = "penalty", **arguments) -> StrategySpec:
    return StrategySpec(name=name, role=role, summary="a strategy for tests", factory="a:b", **arguments)


class Objective(Strategy):
    def objective(self, model, batches, run):
        return {}


class Averages(Strategy):
    def evaluation_weights(self, model):
        return {}


def test_the_base_class_does_nothing():
    base, marker = Strategy(), object()
    assert base.alter(marker, None) is marker
    assert base.augment(marker, "train", "eval") is marker
    assert base.penalty(None, {}, None) == {}
    assert base.evaluation_weights(None) is None
    assert base.delta(None) is None
    assert base.state_dict() == {}
    for method in ("prepare", "begin_epoch", "before_step", "after_step", "finish"):
        assert getattr(base, method)(None, None) is None
    with pytest.raises(ValueError, match=r"Strategy has no state, got \['x'\]"):
        base.load_state_dict({"x": 1})


def test_an_override_is_seen_through_inheritance():
    class Child(Objective):
        pass

    assert overrides(Child(), "objective")
    assert not overrides(Child(), "penalty")


def test_parts_are_called_in_the_order_of_roles():
    parts = [(spec(role, role), Strategy()) for role in reversed(ROLES)]
    assert [part.role for part, _ in compose(parts)] == list(ROLES)


def test_equal_roles_keep_the_order_of_the_recipe():
    parts = [(spec("b"), Strategy()), (spec("a"), Strategy())]
    assert [part.name for part, _ in compose(parts)] == ["b", "a"]


@pytest.mark.parametrize("role", ["tuning", "rates", "sampling", "objective"])
def test_some_roles_stand_alone(role: str):
    problems = order_problems([spec("one", role), spec("two", role)])
    assert problems == [f"a phase has at most one {role} strategy, got one and two"]


def test_penalties_may_be_many_but_not_the_same_twice():
    twice = spec("l2")
    assert order_problems([spec("a"), spec("b")]) == []
    assert order_problems([twice, twice]) == ["l2 stands twice in a phase"]


@pytest.mark.parametrize(("kind", "words"), [(Objective, "objective"), (Averages, "evaluation weights")])
def test_two_owners_of_one_method_are_refused_and_named(kind: type, words: str):
    with pytest.raises(UsageError, match=f"one and two both bring {words}") as caught:
        compose([(spec("one"), kind()), (spec("two", "averaging"), kind())])
    assert "," in str(caught.value.hint)


def test_when_features_may_be_cached():
    assert cacheable([spec("probe", "tuning")])
    assert cacheable([spec("probe", "tuning"), spec("l2", touches=frozenset({"loss"}))])
    assert not cacheable([spec("full", "tuning", touches=frozenset({"backbone"}))])
    assert not cacheable([spec("mixup", "batch", touches=frozenset({"input"}))])
    assert not cacheable([spec("dann", streams=(Stream(name="unlabelled"),))])
    assert cacheable([spec("odd", streams=(Stream(name="train"),))])


def test_streams_of_one_name_merge():
    merged = merge_streams(
        [
            spec("fixmatch", streams=(Stream(name="unlabelled", views=("weak", "strong"), ratio=7),)),
            spec("dann", streams=(Stream(name="unlabelled", views=("train", "weak")), Stream(name="source"))),
        ]
    )
    assert list(merged) == ["train", "unlabelled", "source"]
    assert merged["unlabelled"] == Stream(name="unlabelled", views=("weak", "strong", "train"), ratio=7)


def test_every_method_is_documented():
    methods = [m for name, m in vars(Strategy).items() if inspect.isfunction(m) and not name.startswith("_")]
    assert len(methods) == 18
    assert all(method.__doc__ for method in methods)
