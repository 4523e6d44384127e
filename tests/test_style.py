"""The house's own style and types hold everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_ruff_finds_nothing():
    run("ruff", "check", "--no-cache", ".")


def test_everything_is_formatted():
    run("ruff", "format", "--no-cache", "--check", ".")


@pytest.mark.slow
@pytest.mark.parametrize("what", [("zoo",), ("-p", "zoo_registry")])
def test_mypy_finds_nothing(what, tmp_path):
    run("mypy", "--cache-dir", str(tmp_path), *what)
