"""Recipes: the strategy expression, settings, TOML and back, resolution, and every fault at once."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo_registry import BackboneSpec, Column, HeadSpec, Registry, StrategySpec, UsageError, Weights, ZooError
from zoo_registry.discovery import Plugin
from zoo_registry.specs import Defaults

from zoo.planning import Request, make_plan
from zoo.recipe import Component, PhaseRecipe, Recipe, TrainOptions, parse_strategy, read_recipe, write_recipe
from zoo.recipe.rates import scaled_rate
from zoo.recipe.resolve import default_backbone, default_head, merge_errors, resolve_recipe
from zoo.recipe.settings import apply_strategy_settings, split_settings
from zoo.recipe.toml import recipe_from_dict, recipe_to_dict

REGISTRY = Registry()


def recipe(strategy: str = "linear:3,full:10", **changes: object) -> Recipe:
    parts = {"backbone": Component(name="starter/cnn"), "head": Component(name="basics/linear")}
    return Recipe(**{**parts, "phases": parse_strategy(strategy), **changes})


# ------------------------------------------------------------------ the expression


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linear", [(("linear",), None, None)]),
        ("linear:3", [(("linear",), 3, None)]),
        ("linear:3,full:10", [(("linear",), 3, None), (("full",), 10, None)]),
        ("full:200s", [(("full",), None, 200)]),
        (" llrd + l2-sp : 10 , fit ", [(("llrd", "l2-sp"), 10, None), (("fit",), None, None)]),
        ("basics/linear:3", [(("basics/linear",), 3, None)]),
    ],
)
def test_an_expression_means_phases(text: str, expected: list):
    found = [(tuple(c.name for c in p.strategies), p.epochs, p.steps) for p in parse_strategy(text)]
    assert found == expected


@pytest.mark.parametrize(
    "text", ["", ",", "linear:", "linear:x", "linear:3.5", "linear:-1", "linear:0", "a++b", ":3", "a:3s5"]
)
def test_what_is_no_expression_is_refused_with_an_example(text: str):
    with pytest.raises(UsageError, match="--strategy") as caught:
        parse_strategy(text)
    assert "linear:3,full:10" in caught.value.hint


def test_every_wrong_part_is_named():
    with pytest.raises(UsageError, match=r"phase 1.*phase 2.*phase 4"):
        parse_strategy("linear:x,:3,full:2,a+:1")


names = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
lengths = st.one_of(st.none(), st.integers(1, 999).map(lambda n: (n, "")), st.integers(1, 999).map(lambda n: (n, "s")))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.lists(names, min_size=1, max_size=3), lengths), min_size=1, max_size=4))
def test_an_expression_survives_parsing_and_labelling(phases: list):
    text = ",".join("+".join(n) + (f":{c[0]}{c[1]}" if c else "") for n, c in phases)
    assert ",".join(phase.label() for phase in parse_strategy(text)) == text


# ------------------------------------------------------------------ settings


def test_settings_reach_every_phase_or_one():
    made, problems = apply_strategy_settings(
        recipe("partial:3,partial:5"),
        {"strategy.partial.last": "2", "strategy.2.partial.last": "4", "strategy.rate": "0.1", "strategy.1.decay": "0"},
    )
    assert problems == []
    assert [phase.strategies[0].options for phase in made.phases] == [{"last": "2"}, {"last": "4"}]
    assert [(phase.rate, phase.decay) for phase in made.phases] == [("0.1", "0"), ("0.1", None)]


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"strategy.3.rate": "1"}, "no phase 3"),
        ({"strategy.0.rate": "1"}, "no phase 0"),
        ({"strategy.l2-sp.alpha": "1"}, "no strategy 'l2-sp'"),
        ({"strategy.lineer.x": "1"}, "'linear'"),
    ],
)
def test_a_setting_of_nothing_is_a_problem(settings: dict[str, str], part: str):
    _, problems = apply_strategy_settings(recipe(), settings)
    assert len(problems) == 1
    assert part in problems[0]


def test_settings_are_split_and_the_last_one_counts():
    found, problems = split_settings(["train.clip=1", "train.clip=2", "head.x=a=b", "nonsense", "trian.x=1"])
    assert found == {"train.clip": "2", "head.x": "a=b"}
    assert len(problems) == 2


# ------------------------------------------------------------------ TOML


def test_a_resolved_recipe_survives_its_file(tmp_path: Path):
    made = resolve_recipe(recipe("linear:3,full", source="pho tos/ü", image_size=96, seed=7), REGISTRY)
    made = dataclasses.replace(made, weights={"kind": "hub", "repo": "a/b", "revision": "0" * 40, "sha256": "1" * 64})
    write_recipe(tmp_path / "recipe.toml", made)
    assert read_recipe(tmp_path / "recipe.toml") == made


def test_a_recipe_by_hand_may_be_short(tmp_path: Path):
    text = 'backbone = "cnn"\nhead = "linear"\n[[phase]]\nstrategies = ["linear"]\nepochs = 2\n'
    found = recipe_from_dict(tomllib.loads(text), where="here")
    assert (found.backbone, found.head) == (Component(name="cnn"), Component(name="linear"))
    assert found.phases == (PhaseRecipe(strategies=(Component(name="linear"),), epochs=2),)


def test_what_is_published_says_nothing_of_where_the_data_lies():
    made = recipe(source="/home/alice/photos")
    assert "alice" in str(recipe_to_dict(made))
    assert "alice" not in str(recipe_to_dict(made, private=False))


@pytest.mark.parametrize(("teacher", "told"), [
    ("/home/alice/runs/large", "large"),
    ("{tmp}/here", "here"),
    ("alice/large@main", "alice/large@main"),
    ("large", "large"),
])  # fmt: skip
def test_what_is_published_says_nothing_of_where_another_model_lies(tmp_path, monkeypatch, teacher, told):
    (tmp_path / "runs" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    teacher = teacher.replace("{tmp}", "runs")
    phases = (PhaseRecipe(strategies=(Component(name="distill", options={"teacher": teacher, "alpha": 1.0}),)),)
    made = dataclasses.replace(recipe(), phases=phases)
    options = [recipe_to_dict(made, private=p)["phase"][0]["strategies"][0]["options"] for p in (True, False)]
    assert options == [{"teacher": teacher, "alpha": 1.0}, {"teacher": told, "alpha": 1.0}]


FAULTS = {
    'seed = "x"': "recipe.seed",
    "seed = true": "recipe.seed",
    "image_size = 3": "recipe.image_size",
    'pretrained = "no way"': "recipe.pretrained",
    "phase = 3": "[[phase]]",
    "phase = [3]": "[[phase]]",
    "[[phase]]\nepochs = 3": "phase 1 names no strategies",
    '[[phase]]\nstrategies = "linear"': "phase 1 names no strategies",
    '[[phase]]\nstrategies = [{ nam = "linear" }]': "names nothing",
    '[[phase]]\nstrategies = [{ name = "linear", options = 3 }]': "names nothing",
    '[[phase]]\nstrategies = ["linear"]\nepochs = -1': "phase 1.epochs",
    '[[phase]]\nstrategies = ["linear"]\nrate = "fast"': "phase 1.rate",
    "train = 3": "train is 3",
    "[train]\nlr = -1": "train.lr",
    "[train]\nbatchsize = 3": "train.batchsize",
    "[data]\nval_fraction = 2": "data.val_fraction",
    "[data]\nsource = 3": "data.source",
    "weights = 3": "weights is 3",
    "[weights]\nrepo = 3": "[weights]",
    "oddity = 3": "'oddity'",
}


@pytest.mark.parametrize(("text", "part"), FAULTS.items())
def test_a_fault_of_a_recipe_file_is_named(text: str, part: str):
    whole = f'backbone = "cnn"\nhead = "linear"\n{text}\n'
    with pytest.raises(UsageError, match=r"^r\.toml: ") as caught:
        recipe_from_dict(tomllib.loads(whole), where="r.toml")
    assert part in caught.value.message


def test_all_faults_of_a_recipe_file_are_named_at_once():
    with pytest.raises(UsageError) as caught:
        recipe_from_dict({"bakbone": 1, "seed": "x", "train": {"clip": -1}, "phase": [{}]}, where="r.toml")
    for part in ("'bakbone'", "[backbone]", "[head]", "recipe.seed", "train.clip", "phase 1"):
        assert part in caught.value.message


# ------------------------------------------------------------------ resolution


def test_a_resolved_recipe_has_full_names_and_every_default():
    made = resolve_recipe(
        dataclasses.replace(recipe("linear,full:10"), head=Component(name="mlp", options={"hidden": "32"})),
        REGISTRY,
        suggested_augment="medium",
        train_size=640,
    )
    assert made.head.name == "basics/mlp"
    assert made.head.options["hidden"] == 32
    linear, full = made.phases
    spec = REGISTRY.strategy("linear").spec
    assert (linear.rate, linear.decay, linear.warmup) == (spec.defaults.rate, spec.defaults.decay, spec.defaults.warmup)
    assert (linear.epochs, full.epochs) == (spec.defaults.epochs, 10)
    assert (linear.augment, full.augment) == ("none", "medium")  # features of a frozen backbone may be cached


@pytest.mark.parametrize(
    ("parameters", "strategy", "factor"),
    [(None, "full", 1), (747_000, "full", 1), (85_800_000, "full", 0.108), (85_800_000, "l2-sp", 0.108),
     (85_800_000, "linear", 1), (25_500_000, "partial", 0.198)],
)  # fmt: skip
def test_a_default_rate_falls_with_the_size_of_a_backbone_that_learns(parameters, strategy: str, factor: float):
    spec = REGISTRY.strategy(strategy).spec
    assert scaled_rate(0.01, [spec], parameters) == pytest.approx(0.01 * factor, rel=0.03)


def test_resolving_twice_changes_nothing():
    once = resolve_recipe(recipe("linear:2,full", train=TrainOptions(epochs=4, lr=0.1)), REGISTRY)
    assert once.phases[1].epochs == 4
    assert once.train.epochs is None
    assert resolve_recipe(once, REGISTRY) == once


@pytest.mark.parametrize(("size", "least"), [(64, 100), (640, 20), (10**6, 1)])
def test_a_phase_without_a_length_is_long_enough_for_little_data(size: int, least: int):
    made = resolve_recipe(recipe("full"), REGISTRY, train_size=size)
    assert made.phases[0].epochs >= least


def test_the_wishes_of_the_command_line_go_before_the_defaults():
    made = resolve_recipe(recipe("linear:1,full:1", train=TrainOptions(lr=0.5, augment="strong")), REGISTRY)
    assert [(phase.rate, phase.augment) for phase in made.phases] == [(0.5, "strong")] * 2


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"backbone": Component(name="nope")}, "unknown backbone 'nope'"),
        ({"head": Component(name="nope")}, "unknown head 'nope'"),
        ({"phases": parse_strategy("nope:1")}, "unknown strategy 'nope'"),
        ({"phases": parse_strategy("linear+full:1")}, "phase 1"),
        ({"phases": parse_strategy("linear:1,fit:3")}, "phase 2: fit takes no steps"),
        ({"head": Component(name="prototype")}, "no phase does that"),
        ({"train": TrainOptions(epochs=3)}, "--epochs 3 has nothing to set"),
        ({"phases": (PhaseRecipe(strategies=(Component(name="linear"),), epochs=1, rate=-1.0),)}, "rate"),
        ({"phases": (PhaseRecipe(strategies=(Component(name="linear"),), epochs=1, augment="x"),)}, "augment 'x'"),
    ],
)
def test_what_does_not_resolve_is_named(changes: dict, part: str):
    with pytest.raises(ZooError) as caught:
        resolve_recipe(dataclasses.replace(recipe(), **changes), REGISTRY)
    assert part in caught.value.message


def test_what_would_do_nothing_in_a_phase_without_steps_is_refused():
    with pytest.raises(UsageError, match="fit takes no steps, so mixup and ema would do nothing there"):
        resolve_recipe(recipe("mixup+fit+ema"), REGISTRY)


def test_one_error_says_them_all_and_has_the_gravest_code():
    merged = merge_errors([UsageError("a", hint="x"), UsageError("b", hint="x"), ZooError("c", hint="y")])
    assert (merged.message, merged.hint, merged.exit_code) == ("a; b; c", "x; y", 2)


def fake_registry() -> Registry:
    """A backbone without capabilities, and what wants some."""
    specs = {
        "backbone": (
            BackboneSpec(name="bare", summary="s", factory="x:y", features={"pooled": 8}, weights=Weights(repo="a/b")),
            BackboneSpec(name="best", summary="s", factory="x:y", features={"pooled": 8}, recommended=3),
        ),
        "head": (HeadSpec(name="plain", summary="s", factory="x:y"),),
        "strategy": (
            StrategySpec(name="by-block", summary="s", factory="x:y", needs=frozenset({"blocks"})),
            StrategySpec(
                name="slow", summary="s", factory="x:y", role="penalty", defaults=Defaults(rate=1e-5, epochs=2)
            ),
            StrategySpec(name="tune", summary="s", factory="x:y", defaults=Defaults(epochs=7, decay=0.05)),
            StrategySpec(name="pull", summary="s", factory="x:y", role="penalty", defaults=Defaults(rate=1, decay=0)),
        ),
    }
    return Registry([Plugin(namespace="fake", distribution="zoo-fake", version="1", specs=specs)])


def test_a_capability_that_is_missing_names_who_has_it():
    wanted = recipe("by-block:3", backbone=Component(name="bare"), head=Component(name="plain"))
    with pytest.raises(UsageError, match="strategy fake/by-block needs blocks, which backbone fake/bare") as caught:
        resolve_recipe(wanted, fake_registry())
    assert "zoo list backbones --capability blocks" in caught.value.hint


def test_the_tuning_strategys_defaults_go_before_the_others():
    wanted = recipe("slow+tune", backbone=Component(name="bare"), head=Component(name="plain"))
    phase = resolve_recipe(wanted, fake_registry()).phases[0]
    assert (phase.epochs, phase.rate) == (7, 1e-5)


def test_a_penaltys_decay_goes_before_the_tuning_strategys():
    bare = {"backbone": Component(name="bare"), "head": Component(name="plain")}
    found = [resolve_recipe(recipe(s, **bare), fake_registry()).phases[0].decay for s in ("tune+pull", "tune+slow")]
    assert found == [0.0, 0.05]


def test_the_train_view_is_plain_only_where_a_strategy_leaves_the_backbone_alone():
    bare = {"backbone": Component(name="bare"), "head": Component(name="plain")}
    plans = {s: resolve_recipe(recipe(s, **bare), fake_registry()).phases[0].augment for s in ("tune+slow", "slow")}
    assert plans == {"tune+slow": "none", "slow": "medium"}


def test_the_recommended_backbone_and_the_plain_head_are_the_defaults():
    assert default_backbone(fake_registry()) == "fake/best"
    assert [default_head((Column(name="x", kind=kind),)) for kind in ("multilabel", "regression")] == [
        "multilabel",
        "regression",
    ]
    with pytest.raises(UsageError, match="recommends a backbone"):
        default_backbone(Registry([]))


# ------------------------------------------------------------------ plans


def test_what_is_said_goes_before_the_recipe_file(photos: Path):
    base = resolve_recipe(recipe("linear:3,full:10", source=str(photos)), REGISTRY)
    plan = make_plan(
        Request(recipe=base, train={"lr": "0.5"}, settings=("train.warmup=0.3", "strategy.2.decay=0")), REGISTRY
    )
    assert [(p.rate, p.warmup) for p in plan.recipe.phases] == [(0.5, 0.3)] * 2
    assert plan.recipe.phases[1].decay == 0
    assert make_plan(Request(recipe=base), REGISTRY).recipe.phases == base.phases


def test_the_pinned_weights_stay_with_their_backbone(photos: Path):
    pinned = {"kind": "package", "sha256": "0" * 64}
    base = dataclasses.replace(resolve_recipe(recipe(source=str(photos)), REGISTRY), weights=pinned)
    assert make_plan(Request(recipe=base), REGISTRY).recipe.weights == pinned
    assert make_plan(Request(recipe=base, backbone="starter/vit"), REGISTRY).recipe.weights is None
    assert make_plan(Request(recipe=base, pretrained=False), REGISTRY).recipe.weights is None
