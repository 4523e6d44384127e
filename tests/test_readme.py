"""The README is true: its commands and snippets run as they stand, on a folder of drawn photos."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.cli.main import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BACKBONE = "starter/cnn"  # the README says resnet18, whose weights need a network


def block(language: str, after: str = "") -> str:
    """The first fenced block of a language behind a text."""
    start = README.index(after)
    match = re.compile(rf"```{language}\n(.*?)```", re.DOTALL).search(README, start)
    assert match, (language, after)
    return match.group(1)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """``photos/`` with two classes and ``photo.jpg``, in the working folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for label, hue in (("red", 0), ("blue", 2)):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 120, (48, 64, 3), dtype=np.uint8)
            pixels[..., hue] += 120
            Image.fromarray(pixels).save(folder / f"{number}.jpg")
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    return tmp_path


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    program = re.search(r"awk '(.*?)' README.md", script, re.DOTALL).group(1)
    found = subprocess.run(["awk", program, str(ROOT / "README.md")], capture_output=True, text=True, check=True).stdout
    assert found == block("bash", "<!-- test-command -->")
    assert "python -m pytest" in found


def test_the_start_command_installs_everything_and_runs_the_demo():
    assert block("bash", "<!-- start-command -->").strip() == "pip install ./registry ./plugins/* . && zoo demo"


def test_the_commands_at_the_top_run(photos, capsys):
    for line in block("bash").splitlines():
        words = shlex.split(line.replace("resnet18", BACKBONE), comments=True)
        assert words[0] == "zoo"
        assert main(words[1:]) == 0, (line, capsys.readouterr().err)
    assert (photos / "hub/me/flowers").is_dir()


@pytest.mark.slow
def test_the_python_snippet_runs(photos, capsys):
    snippet = block("python", "## Python").replace("resnet18", BACKBONE)
    names: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert float(capsys.readouterr().out.split()[-1]) == names["run"].metrics["accuracy"]
    assert [row.column for row in names["rows"]] == ["label"]


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
