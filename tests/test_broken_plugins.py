"""All broken plugins installed at once: every command works for the others and names each broken one on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_plugins import BROKEN, HEAD, add_all_broken, add_distribution

OFF = [f"zoo-{namespace}" for namespace in BROKEN] + ["zoo-first", "zoo-second"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    add_all_broken(folder)
    add_distribution(folder, "healthy", HEAD.format(name="bystander"))
    return folder


def zoo(site: Path, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("ZOO_")}
    variables |= {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "zoo", *arguments]
    return subprocess.run(command, env=variables, cwd=cwd or site, capture_output=True, text=True, check=False)


def warnings_of(stderr: str) -> dict[str, list[str]]:
    """Distribution -> the warning lines that name it."""
    lines = [line for line in stderr.splitlines() if line.startswith("warning: plugin ")]
    return {owner: [line for line in lines if f"({owner} " in line] for owner in OFF}


def assert_named_once_each(done: subprocess.CompletedProcess[str]) -> None:
    assert "Traceback" not in done.stdout + done.stderr
    counts = {owner: len(lines) for owner, lines in warnings_of(done.stderr).items()}
    assert counts == dict.fromkeys(OFF, 1), done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["list", "heads"], "healthy/bystander"),
        (["list", "backbones", "--limit", "2"], "starter/"),
        (["list", "strategies"], "basics/full"),
        (["list", "plugins"], "zoo-healthy"),
        (["show", "head", "bystander"], "a head of a fake plugin"),
        (["show", "basics/linear"], "basics/linear"),
        (["plugin", "list"], "healthy"),
        (["plugin", "check", "basics/full"], "checks of 1 specs are as they should be"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_commands_work_for_the_others_and_name_each(site: Path, arguments: list[str], expected: str):
    done = zoo(site, *arguments)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert_named_once_each(done)


def test_each_row_says_which_and_why(site: Path):
    done = zoo(site, "plugin", "list", "--json")
    rows = {row["distribution"]: row for row in json.loads(done.stdout)}
    assert rows["zoo-healthy"]["status"] == "ok"
    assert rows["zoo-healthy"]["heads"] == 1
    for namespace, (_, stage, reason) in BROKEN.items():
        row = rows[f"zoo-{namespace}"]
        assert (row["namespace"], row["status"], row["stage"]) == (namespace, "broken", stage)
        assert reason in row["reason"]
    for owner in ("zoo-first", "zoo-second"):
        assert rows[owner]["stage"] == "conflict"
    assert_named_once_each(done)


@pytest.mark.slow
def test_training_goes_on_without_them(site: Path, tmp_path: Path):
    recipe = ["finetune", "digits:", "--backbone", "starter/cnn", "--head", "linear", "--strategy", "linear:1"]
    done = zoo(site, *recipe, "--out", str(tmp_path / "run"), "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "basics/linear" in done.stdout
    assert not (tmp_path / "run").exists()
    assert_named_once_each(done)


@pytest.mark.parametrize("namespace", ["raises", "misspelt", "newer", "contested"])
@pytest.mark.slow
def test_using_a_broken_one_fails_with_its_reason(site: Path, tmp_path: Path, namespace: str):
    reason = BROKEN[namespace][2] if namespace in BROKEN else "both claim the namespace"
    for arguments in (
        ["finetune", "digits:", "--head", f"{namespace}/anything", "--out", str(tmp_path / "run")],
        ["plugin", "check", namespace],
    ):
        done = zoo(site, *arguments, cwd=tmp_path)
        assert done.returncode == 7, done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert reason in errors[0]
        assert not (tmp_path / "run").exists()


def test_the_environment_decides_and_switches_off(site: Path):
    done = zoo(site, "list", "heads", "--json", ZOO_PLUGINS="contested=zoo-second,healthy")
    assert {row["name"] for row in json.loads(done.stdout)} == {"contested/second", "healthy/bystander"}
    assert done.stderr == ""
    rows = json.loads(zoo(site, "plugin", "list", "--json", ZOO_PLUGINS="healthy").stdout)
    assert {row["status"] for row in rows if row["namespace"] in BROKEN} == {"disabled"}


def test_strict_stops_at_the_first(site: Path):
    done = zoo(site, "list", "heads", ZOO_STRICT="1")
    assert done.returncode == 7
    assert done.stdout == ""
    assert "is off: " in done.stderr
    assert "hint: unset ZOO_STRICT" in done.stderr


def test_metadata_that_does_not_parse_is_named_too(tmp_path: Path):
    add_distribution(tmp_path, "garbled", "", entry_points="[zoo]\nno entry point\n")
    done = zoo(tmp_path, "list", "heads")
    assert done.returncode == 0, done.stderr
    assert "basics/linear" in done.stdout
    assert done.stderr.startswith("warning: plugin 'zoo-garbled' (zoo-garbled 1.2) is off: metadata: ")
    assert done.stderr.count("\n") == 1


def test_help_needs_no_plugin(site: Path):
    done = zoo(site, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
