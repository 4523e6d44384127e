"""``zoo plugin new``: what it writes installs with pip, appears, conforms, trains, and is gone after it is removed."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from zoo_registry import ConflictError, Registry, UsageError

from zoo.plugins.new import create_plugin, render

ROOT = Path(__file__).parents[1]
EMPTY = Registry([])


def run(*command: str, path: Path | None = None, cwd: Path) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("ZOO_", "PYTHONPATH"))}
    variables |= {"OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run(command, env=variables, cwd=cwd, capture_output=True, text=True, check=False)


def zoo(*arguments: str, path: Path | None = None, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "zoo", *arguments, path=path, cwd=cwd)


def test_the_files_are_complete_and_parse():
    rendered = render("night-birds", "zoo-night-birds", "zoo_night_birds")
    assert {"pyproject.toml", "README.md", ".gitignore", "tests/test_conformance.py"} <= rendered.keys()
    assert {
        f"src/zoo_night_birds/{name}.py" for name in ("__init__", "backbone", "head", "strategy")
    } <= rendered.keys()
    for path, content in rendered.items():
        assert "{{" not in path
        if path.endswith(".safetensors"):
            continue
        text = content.decode()
        assert "{{" not in text.replace("{{}}", ""), path
        assert max(map(len, text.splitlines())) <= 140 or path.endswith(".md"), path
        if path.endswith(".py"):
            ast.parse(text)
        if path.endswith(".toml"):
            project = tomllib.loads(text)["project"]
            assert project["entry-points"]["zoo"] == {"night-birds": "zoo_night_birds"}


@pytest.mark.parametrize("name", ["birds", "zoo-birds"])
def test_names_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    made = create_plugin(name, registry=EMPTY)
    assert (made.namespace, made.distribution, made.package) == ("birds", "zoo-birds", "zoo_birds")
    assert sorted(p.relative_to("zoo-birds").as_posix() for p in Path("zoo-birds").rglob("*") if p.is_file()) == [
        *made.files
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["zoo-birds"], "nothing is left beside it"
    assert made.next_steps[0] == "pip install -e zoo-birds"


NO_NAMES = ["", "Birds", "1birds", "birds_", "a--b", "birds-", "-birds", "zoo-", "../birds", "a b", "ä", "a\n"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str):
    with pytest.raises(UsageError, match="is no plugin name"):
        create_plugin(name, tmp_path / "out", registry=EMPTY)
    assert not (tmp_path / "out").exists()


def test_what_exists_is_not_touched(tmp_path: Path):
    (tmp_path / "here").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for place in ("here", "file", "dangling"):
        with pytest.raises(ConflictError, match="exists already"):
            create_plugin("birds", tmp_path / place, registry=EMPTY)
    assert list((tmp_path / "here").iterdir()) == []
    assert (tmp_path / "file").read_text() == "mine"


def test_a_taken_name_is_refused(tmp_path: Path):
    with pytest.raises(ConflictError, match="'basics' belongs to zoo-basics"):
        create_plugin("basics", tmp_path / "out")
    with pytest.raises(ConflictError, match="package 'zoo_registry' is installed"):
        create_plugin("registry", tmp_path / "out", registry=EMPTY)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        create_plugin("birds", tmp_path / "file" / "below", registry=EMPTY)


def test_the_command_prints_the_next_steps(tmp_path: Path):
    done = zoo("plugin", "new", "birds", "--out", str(tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "zoo plugin check birds" in done.stdout
    again = zoo("plugin", "new", "birds", "--out", str(tmp_path / "out"), "--json", cwd=tmp_path)
    assert again.returncode == 6
    assert json.loads(again.stdout)["error"]["kind"] == "conflict"
    other = zoo("plugin", "new", "birds", "--out", str(tmp_path / "other"), "--json", cwd=tmp_path)
    assert json.loads(other.stdout)["path"] == str(tmp_path / "other")
    assert zoo("plugin", "new", "No Name", cwd=tmp_path).returncode == 2


def test_the_guide_shows_what_is_written():
    rendered = render("birds", "zoo-birds", "zoo_birds")
    guide = (ROOT / "docs" / "plugin-guide.md").read_text()
    shown = dict(re.findall(r"<!-- template: (\S+) -->\n```\w+\n(.*?)\n```", guide, re.DOTALL))
    assert {"pyproject.toml", "src/zoo_birds/__init__.py", "src/zoo_birds/strategy.py"} <= shown.keys()
    for path, text in shown.items():
        assert text == rendered[path].decode().rstrip(), f"{path} in the guide is not what the template gives"


def test_other_python_in_the_guide_runs():
    guide = (ROOT / "docs" / "plugin-guide.md").read_text()
    blocks = re.findall(r"(?<!-->)\n```python\n(.*?)\n```", guide, re.DOTALL)
    options = next(block for block in blocks if "MlpOptions" in block)
    scope: dict[str, object] = {"__name__": __name__}
    exec(compile(options, "guide", "exec", dont_inherit=True), scope)
    from zoo_registry.options import describe_options

    assert [info.name for info in describe_options(scope["MlpOptions"])] == ["hidden", "activation", "widths", "limit"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed a fresh plugin."""
    folder = tmp_path_factory.mktemp("plugin")
    made = create_plugin("night-birds", folder / "source", registry=EMPTY)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = run(*pip, "--no-build-isolation", "--target", str(folder / "site"), str(made.folder), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "site" / "zoo_night_birds" / "filters.safetensors").exists()
    return folder / "site"


@pytest.mark.parametrize(
    ("kind", "name"),
    [("backbones", "night-birds/gabor"), ("heads", "night-birds/standardised"), ("strategies", "night-birds/noise")],
)
def test_it_appears_in_the_lists(site: Path, kind: str, name: str):
    rows = json.loads(zoo("list", kind, "--json", path=site, cwd=site.parent).stdout)
    assert name in {row["name"] for row in rows}


def test_it_conforms(site: Path):
    done = zoo("plugin", "check", "night-birds", "--json", path=site, cwd=site.parent)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["spec"] for row in rows} == {f"night-birds/{n}" for n in ("gabor", "standardised", "noise")}
    assert {row["status"] for row in rows} == {"passed"}
    assert "packaged_weights_load" in {row["check"] for row in rows}


@pytest.mark.slow
def test_a_failing_check_is_an_exit_code(site: Path, tmp_path: Path):
    broken = tmp_path / "site"
    shutil.copytree(site, broken)
    weights = broken / "zoo_night_birds" / "filters.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    done = zoo("plugin", "check", "night-birds/gabor", "--json", path=broken, cwd=tmp_path)
    assert done.returncode == 1
    failed = [row for row in json.loads(done.stdout) if row["status"] == "failed"]
    assert [row["check"] for row in failed] == ["packaged_weights_load"]
    assert "sha256" in failed[0]["message"]


@pytest.mark.slow
def test_it_trains_evaluates_and_predicts_like_the_built_in_ones(site: Path, tmp_path: Path):
    done = zoo(
        *("finetune", "digits:", "--backbone", "night-birds/gabor", "--head", "night-birds/standardised"),
        *("--strategy", "linear:3,full+night-birds/noise:2", "--set", "strategy.noise.scale=0.05"),
        *("--out", str(tmp_path / "run"), "--json"),
        path=site,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["accuracy"] > 0.8
    document = json.loads((tmp_path / "run" / "model" / "zoo.json").read_text())
    assert "night-birds/gabor" in json.dumps(document)
    assert "night-birds/noise" in json.dumps(document)
    evaluated = zoo("evaluate", str(tmp_path / "run"), "digits:", "--json", path=site, cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    gone = zoo("evaluate", str(tmp_path / "run"), "digits:", cwd=tmp_path)
    assert gone.returncode == 7, gone.stderr
    assert "pip install" in gone.stderr
    assert "zoo-night-birds" in gone.stderr


@pytest.mark.slow
def test_its_own_tests_pass(site: Path):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = run(*command, path=site, cwd=site.parent / "source")
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_its_weights_come_from_its_script(site: Path, tmp_path: Path):
    from safetensors.torch import load_file
    from torch.testing import assert_close

    source = tmp_path / "source"
    shutil.copytree(site.parent / "source", source)
    weights = source / "src" / "zoo_night_birds" / "filters.safetensors"
    shipped = load_file(weights)
    weights.unlink()
    done = run(sys.executable, "tools/make_filters.py", cwd=source)
    assert done.returncode == 0, done.stderr
    assert_close(load_file(weights), shipped)


def test_uninstalled_it_is_gone(site: Path):
    rows = json.loads(zoo("plugin", "list", "--json", cwd=site.parent).stdout)
    assert "night-birds" not in {row["namespace"] for row in rows}
    missing = zoo("show", "backbone", "night-birds/gabor", cwd=site.parent)
    assert missing.returncode == 2
    assert "no plugin 'night-birds' is installed" in missing.stderr
