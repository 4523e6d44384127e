"""Installed distributions are read as importlib.metadata reads them, without importing it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest
from zoo_registry import installed


def seen(distribution) -> tuple:
    points = {(p.name, p.value, p.group) for p in distribution.entry_points}
    return distribution.metadata["Name"], distribution.metadata["Version"], frozenset(points)


def test_every_installed_distribution_is_seen_as_importlib_sees_it():
    assert {seen(d) for d in installed._in_folders()} == {seen(d) for d in importlib.metadata.distributions()}


def test_discovery_does_not_import_importlib_metadata():
    code = "import sys; from zoo_registry import Registry; Registry(); print('importlib.metadata' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.fixture
def folder(tmp_path):
    info = tmp_path / "some_thing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-thing\nVersion: 1.0\n\nName: body\n")
    return info


def test_entry_points_load_modules_and_attributes(folder):
    (folder / "entry_points.txt").write_text(
        "# a comment\n[zoo]\na = json\nb = json:loads [extra]\n\n[other]\nc=os.path:join\n"
    )
    distribution = installed.Distribution(str(folder))
    assert distribution.metadata == {"Name": "some-thing", "Version": "1.0"}
    points = {p.name: p for p in distribution.entry_points}
    assert [p.group for p in points.values()] == ["zoo", "zoo", "other"]
    assert points["a"].load().loads is points["b"].load()
    assert points["c"].load()("x", "y").startswith("x")


@pytest.mark.parametrize("text", ["[zoo]\nno entry point\n", "a = b\n"])
def test_lines_that_are_no_entry_points_are_refused(folder, text):
    (folder / "entry_points.txt").write_text(text)
    with pytest.raises(ValueError, match="is no entry point"):
        _ = installed.Distribution(str(folder)).entry_points


def test_values_that_name_nothing_are_refused(folder):
    (folder / "entry_points.txt").write_text("[zoo]\na = not a module!\nb = json:nothing\n")
    first, second = installed.Distribution(str(folder)).entry_points
    with pytest.raises(ValueError, match="invalid object reference"):
        first.load()
    with pytest.raises(AttributeError):
        second.load()


def test_a_distribution_without_files_is_empty(folder):
    (folder / "METADATA").unlink()
    distribution = installed.Distribution(str(folder))
    assert distribution.metadata == {"Name": "", "Version": ""}
    assert distribution.entry_points == []


def test_importlib_is_asked_where_something_else_takes_part(tmp_path, monkeypatch):
    archive = tmp_path / "packages.zip"
    archive.write_bytes(b"")
    monkeypatch.setattr(sys, "path", [*sys.path, str(archive)])
    kinds = {type(d).__module__ for d in installed.distributions()}
    assert kinds == {"importlib.metadata"}
