"""The floors: imports point down only, and the docs say what the code says."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from zoo_registry import Tracker, building, hooks, specs, strategy
from zoo_registry.strategy import Strategy

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "plugin-guide.md"
SOURCES = [
    path
    for top in ("zoo", "registry/src", "plugins")
    for path in sorted((ROOT / top).rglob("*.py"))
    if "build" not in path.relative_to(ROOT).parts
]


def test_import_linter_contracts_are_kept():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " 0 broken" in done.stdout


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_the_folders_of_the_repository(path: Path):
    assert imported(path) & {"registry", "plugins", "tests", "docs", "benchmarks"} == set()


def plugin_distributions() -> set[str]:
    return {path.parent.name for path in (ROOT / "plugins").glob("*/pyproject.toml")}


def string_constants(path: Path) -> list[str]:
    """Strings of a file that are no docstrings."""
    tree = ast.parse(path.read_text())
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = {id(n.body[0].value) for n in ast.walk(tree) if isinstance(n, documented) and ast.get_docstring(n)}
    strings = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [node.value for node in strings if id(node) not in docstrings]


def test_no_list_of_plugin_names_stands_above_or_below_the_plugins():
    names = plugin_distributions()
    assert {"zoo-basics", "zoo-starter", "zoo-timm"} <= names
    word = re.compile(rf"(?<![\w-])({'|'.join(sorted(names | {name.replace('-', '_') for name in names}))})(?![\w-])")
    found = {
        f"{path.relative_to(ROOT)}: {text!r:.80}"
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] in ("zoo", "registry")
        for text in string_constants(path)
        if (match := word.search(text)) and (" " not in text or word.search(text, match.end()))
    }
    assert found == set(), "a hint may say what to install; no name that code could act on, and no list"


def test_the_entry_point_is_the_only_tie_to_a_plugin():
    for path in (ROOT / "plugins").glob("*/pyproject.toml"):
        text = path.read_text()
        assert "[project.entry-points.zoo]" in text
        assert "zoo-registry" in text
        assert "transfer-zoo" not in text


def test_one_lock_step_version():
    files = [
        ROOT / "pyproject.toml",
        ROOT / "registry" / "pyproject.toml",
        *(ROOT / "plugins").glob("*/pyproject.toml"),
    ]
    versions = {tomllib.loads(path.read_text())["project"]["version"] for path in files}
    assert versions == {importlib.metadata.version("zoo-registry")}


def signature_of(function: object, name: str) -> str:
    """``def name(...) -> ...`` as written in the source, without ``self``."""
    text = str(inspect.signature(function)).replace("'", "")
    text = re.sub(r"\(self(, )?", "(", text, count=1)
    return f"{name}{text}"


def guide() -> str:
    """The guide with white space made even, so that a signature may be wrapped."""
    text = re.sub(r"\s+", " ", GUIDE.read_text()).replace("\\|", "|")
    return text.replace("( ", "(").replace(", )", ")").replace(" )", ")")


@pytest.mark.parametrize("hook", hooks.HOOKS)
def test_every_hook_stands_in_the_guide_with_its_exact_signature(hook: str):
    assert f"def {signature_of(getattr(hooks, hook), hook)}" in guide()


def test_every_hook_is_known_to_pluggy_and_there_is_no_other():
    specified = {name for name, value in vars(hooks).items() if hasattr(value, "zoo_spec")}
    assert specified == set(hooks.HOOKS)
    assert [*hooks.HOOKS.values()] == ["plugin", *specs.KINDS]


@pytest.mark.parametrize("method", [name for name, value in vars(Tracker).items() if inspect.isfunction(value)])
def test_every_tracker_method_stands_in_the_guide_with_its_exact_signature(method: str):
    assert f"`{signature_of(getattr(Tracker, method), method)}`" in guide()


METHODS = [name for name, value in vars(Strategy).items() if inspect.isfunction(value)]


@pytest.mark.parametrize("method", METHODS)
def test_every_strategy_method_stands_in_the_guide_with_its_exact_signature(method: str):
    assert f"`{signature_of(getattr(Strategy, method), method)}`" in guide()


@pytest.mark.parametrize(
    "factory", ["BackboneFactory", "HeadFactory", "StrategyFactory", "TrackerFactory", "FormatReader"]
)
def test_every_factory_stands_in_the_guide_with_its_exact_signature(factory: str):
    assert signature_of(getattr(building, factory).__call__, "def build") in guide()


@pytest.mark.parametrize("protocol", [building.Backbone, building.Head, strategy.TransferModel, strategy.Run])
def test_every_method_of_what_is_built_stands_in_the_guide(protocol: type):
    methods = [name for name, value in vars(protocol).items() if inspect.isfunction(value) and not name.startswith("_")]
    missing = [name for name in methods if f"`{name}" not in guide()]
    assert missing == []


@pytest.mark.parametrize(
    "spec",
    [
        specs.PluginInfo,
        specs.NamedSpec,
        specs.Spec,
        *specs.SPEC_TYPES.values(),
        specs.RecipePhase,
        specs.Weights,
        specs.Stream,
    ],
)
def test_every_field_of_a_spec_stands_in_the_guide(spec: type):
    missing = [name for name in inspect.get_annotations(spec) if f"`{name}`" not in guide()]
    assert missing == []


@pytest.mark.parametrize("word", [*specs.CAPABILITIES, *specs.ROLES, *specs.FEATURE_KINDS])
def test_every_word_of_the_contract_stands_in_the_guide(word: str):
    assert f"`{word}`" in guide()


def test_every_conformance_check_stands_in_the_guide():
    from zoo_registry.conformance import checks as kit
    from zoo_registry.conformance import spec_checks

    modules = [importlib.import_module(f"zoo_registry.conformance.{name}") for name in kit.MODULES.values()]
    checks = [
        name
        for module in (spec_checks, *modules)
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and list(inspect.signature(value).parameters) == ["entry"]
        and value.__annotations__["return"] == "None"
    ]
    assert len(checks) > 30
    assert [name for name in checks if f"`{name}`" not in guide()] == []
