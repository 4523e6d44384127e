"""The pages on strategies and heads: generated parts without drift, and nothing in them that does not exist."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from zoo_registry import Registry, ZooError
from zoo_registry.options import describe_options
from zoo_registry.specs import ROLES

from zoo.recipe import parse_strategy
from zoo.recipe.settings import split_settings
from zoo.recipe.toml import recipe_from_dict

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """The generator as a module."""
    spec = importlib.util.spec_from_file_location("generate_strategies", ROOT / "docs" / "generate_strategies.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def registry(generator) -> Registry:
    """What the plugins of this repository offer."""
    return generator.own_registry()


@pytest.fixture(scope="module")
def page() -> str:
    """The page on strategies."""
    return (ROOT / "docs" / "strategies.md").read_text()


def test_the_pages_are_what_specs_and_benchmark_say(generator):
    assert generator.problems() == [], "run: make docs"


def test_drift_and_missing_sections_are_noticed(generator, tmp_path, monkeypatch):
    for name in generator.PAGES:
        text = (ROOT / "docs" / name).read_text()
        text = text.replace("| 0.01 |", "| 0.02 |") if name == "strategies.md" else text
        (tmp_path / name).write_text(re.sub(r"<!-- head basics/mlp -->.*?<!-- end -->", "", text, flags=re.DOTALL))
    real = generator.own_registry()
    monkeypatch.setattr(generator, "own_registry", lambda: real)
    monkeypatch.setattr(generator, "FOLDER", tmp_path)
    assert generator.problems() == [
        "strategies.md is not what the specs and the benchmark say",
        "heads.md has no section of head basics/mlp",
    ]


def test_every_expression_names_what_exists(page, registry):
    """Code spans that read as expressions, in prose and tables: their names are strategies, recipes or heads."""
    spans = set(re.findall(r"`(\+?[a-z][a-z0-9+,:-]*)`", page))
    known = {entry.spec.name for kind in ("strategy", "recipe", "head") for entry in registry.entries(kind)}
    options = {o.name for entry in registry.entries("strategy") for o in describe_options(entry.spec.options)}
    words = {*ROLES, *options, "train", "val", "auto", "start", "macro_f1"}
    expressions = [span.lstrip("+") for span in spans if span.lstrip("+") not in words]
    assert len(expressions) > 40
    for text in expressions:
        names = [component.name for phase in parse_strategy(text) for component in phase.strategies]
        assert set(names) <= known, text


def test_settings_and_recipe_of_the_page_are_understood(page, registry):
    settings = [line.split()[1] for line in re.findall(r"^--set .*$", page, re.MULTILINE)]
    settings += re.findall(r"`--set (\S+?=[^`<A-Z]+)`", page)
    found, problems = split_settings(settings)
    assert not problems
    assert len(found) > 3
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    values = {"backbone": {"name": "starter/cnn"}, "head": {"name": "basics/linear"}, **tomllib.loads(text)}
    recipe = recipe_from_dict(values, where="the page")
    assert recipe.label() == "linear:3,full+l2-sp:10"
    for phase in recipe.phases:
        for component in phase.strategies:
            try:
                registry.strategy(component.name)
            except ZooError as error:
                pytest.fail(str(error))


def test_links_of_the_page_lead_somewhere(page):
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", page, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", page):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (ROOT / "docs" / target).exists(), target


def test_measured_numbers_are_means_over_the_draws(generator, tmp_path, monkeypatch):
    cell = {"trainable": 200, "accuracy": [0.9, 0.94], "shifted": [0.5, 0.7]}
    draws = {"digits-10": {"cnn": {"full": cell, "linear": {"trainable": 3, "accuracy": [0.8, 0.81]}}}}
    said = [{"claim": "it helps", "bar": "0 or more", "verdict": "shown", "findings": {}}]
    (tmp_path / "strategies.json").write_text(json.dumps({"claims": said, "draws": draws}))
    monkeypatch.setattr(generator, "RESULTS", tmp_path / "strategies.json")
    text = "\n".join(
        [*generator._measured("claims"), *generator._measured("cnn"), *generator._measured_lines("linear")]
    )
    assert "| it helps | shown | 0 or more |" in text
    assert "| full | 0.920 | 0.600 |  |  | 100.00% |" in text
    assert "| linear | 0.805 |  |  |  | 1.50% |" in text
    assert "- Measured on `starter/cnn`: ten labels 0.805 (`full` 0.920)." in text
    monkeypatch.setattr(generator, "RESULTS", tmp_path / "nothing.json")
    assert generator._measured("cnn") == [f"Not measured yet: `{generator.COMMAND}` does it."]
