"""Importing the registry, listing, showing and help import neither torch nor timm nor transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "timm", "transformers", "peft", "sklearn", "matplotlib", "scipy", "pandas", "numpy"}

COMMANDS = [
    ["--help"],
    ["--version"],
    ["list"],
    ["list", "backbones", "cnn", "--json"],
    ["list", "heads"],
    ["list", "strategies"],
    ["list", "trackers"],
    ["list", "formats"],
    ["list", "plugins"],
    ["show", "starter/cnn"],
    ["show", "head", "linear"],
    ["show", "strategy", "full"],
    ["show", "tracker", "tensorboard"],
    ["plugin", "list"],
    ["plugin", "list", "--json"],
    ["plugin", "--help"],
    ["plugin", "check", "--help"],
    ["finetune", "--help"],
    ["evaluate", "--help"],
    ["predict", "--help"],
    ["push", "--help"],
    ["pull", "--help"],
    ["demo", "--help"],
]

RUNNER = """
import contextlib, io, json, sys
from zoo.cli.main import main
with contextlib.redirect_stdout(io.StringIO()):
    try:
        code = main(sys.argv[1:])
    except SystemExit as stop:
        code = stop.code
print(json.dumps([code or 0, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def modules_after(code: str, *arguments: str) -> tuple[int, set[str]]:
    """Exit code and top-level modules imported by ``code``, which prints both as JSON."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ZOO_")}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    status, modules = json.loads(done.stdout)
    return status, set(modules)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_commands_that_only_tell_import_nothing_heavy(arguments: list[str]):
    status, modules = modules_after(RUNNER, *arguments)
    assert status == 0
    assert modules & HEAVY == set()
    assert "zoo_registry" in modules


@pytest.mark.parametrize("module", ["zoo_registry", "zoo_registry.building", "zoo_registry.conformance", "zoo"])
def test_importing_imports_nothing_heavy(module: str):
    code = f"import json, sys, {module}; print(json.dumps([0, list(sys.modules)]))"
    _, modules = modules_after(code)
    assert modules & HEAVY == set()


def test_the_registry_needs_pluggy_and_the_standard_library_alone():
    code = """
import json, sys
before = set(sys.modules)
from zoo_registry import Registry, Strategy
print(json.dumps([0, sorted({name.partition(".")[0] for name in set(sys.modules) - before})]))
"""
    _, modules = modules_after(code)
    assert modules - set(sys.stdlib_module_names) == {"zoo_registry", "pluggy"}
