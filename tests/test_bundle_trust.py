"""Hostile and damaged bundles: refused in one line before anything is built; no file is read that was not proved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_fixtures import flip, write_manifest
from safetensors.torch import load_file, save_file
from zoo_registry import IntegrityError, PluginError, Registry, ZooError
from zoo_runs import CLASSES, assembled, edit_bundle, written

from zoo.bundle.read import load_bundle

REGISTRY = Registry()


def _spoil(folder: Path, **changes: Any) -> ZooError:
    edit_bundle(folder, **changes)
    with pytest.raises(ZooError) as caught:
        load_bundle(folder, REGISTRY, name="me/x")
    assert caught.value.exit_code in (5, 7)
    assert "\n" not in caught.value.message
    return caught.value


HOSTILE = {
    "a newer format": ({"format": 99}, "format"),
    "a format that is none": ({"format": True}, "format"),
    "a backbone nobody offers": ({"backbone__name": "timm/none_such"}, "timm/none_such"),
    "a name without a namespace": ({"backbone__name": "cnn"}, "full name"),
    "a path as a name": ({"backbone__name": "starter/../../etc"}, "full name"),
    "a module as a name": ({"head__name": "os:system"}, "full name"),
    "a name that is no text": ({"head__name": ["basics/linear"]}, "head.name"),
    "an unknown option": ({"head__options": {"factory": "os:system"}}, "factory"),
    "an option of a wrong type": ({"head__options": {"dropout": "x"}}, "dropout"),
    "an option out of range": ({"head__options": {"dropout": 7}}, "dropout"),
    "options that are none": ({"backbone__options": [1]}, "backbone.options"),
    "another kind of features": ({"backbone__features": "secrets"}, "backbone.features"),
    "features that the backbone lacks": ({"backbone__features": "tokens"}, "tokens"),
    "another form of head": ({"head__form": "pickle"}, "head.form"),
    "a module form without its file": ({"head__form": "module"}, "head"),
    "a classifier of other tensors": ({"classifier": ["conv1.weight", "fc.bias"]}, "classifier"),
    "a classifier that is a path": ({"classifier": "../../x"}, "classifier"),
    "more classes than the classifier": ({"columns__0__classes": [str(i) for i in range(90_000)]}, "classifier"),
    "a class twice": ({"columns__0__classes": ["a", "a", "b"]}, "twice"),
    "no columns": ({"columns": []}, "columns"),
    "a column of unknown kind": ({"columns__0__kind": "code"}, "column"),
    "an image of a huge size": ({"input__size": [10**9, 10**9]}, "input"),
    "an image of many channels": ({"input__channels": 10**6}, "input"),
    "an image of many values": ({"input__size": [8000, 8000], "input__channels": 1000}, "input"),
    "an image of no size": ({"input__size": [0, 64]}, "input"),
    "a mean that is no number": ({"input__mean": [float("nan")] * 3}, "input"),
    "a std of zero": ({"input__std": [0, 0, 0]}, "input"),
    "statistics of other channels": ({"input__mean": [0.5]}, "input"),
    "another interpolation": ({"input__interpolation": "__import__"}, "input"),
    "an unknown input": ({"input__kind": "executable"}, "input.kind"),
    "an unknown field of the input": ({"input__path": "/etc/passwd"}, "path"),
    "another size than the tensors": (
        {"input__channels": 1, "input__mean": [0.5], "input__std": [0.5]},
        "model.safetensors",
    ),
    "a plugin that is a command": ({"plugins__0__distribution": "x; rm -rf ~"}, "no distribution"),
    "a version that is an option": ({"plugins__0__version": "1 --index-url http://x"}, "no distribution"),
    "a plugin of a link": ({"plugins__0__distribution": "git+https://example.org/x"}, "no distribution"),
    "metrics that are none": ({"metrics": {"val": {"accuracy": "high"}}}, "metrics"),
    "a base that is none": ({"base": {"repo": 3}}, "base"),
    "a recipe with an odd seed": ({"recipe": {"seed": "1; ls"}}, "recipe"),
    "a recipe with odd data": ({"recipe": {"data": 7}}, "recipe"),
}


@pytest.mark.parametrize(("changes", "word"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_document_is_refused_in_one_line(changes: dict[str, Any], word: str, own_bundle: Path):
    assert word in _spoil(own_bundle, **changes).message


@pytest.mark.parametrize("text", ["", "null", "[]", "3", "{", "[" * 100_000])
def test_a_document_that_is_none_is_refused(text: str, own_bundle: Path):
    (own_bundle / "zoo.json").write_text(text)
    write_manifest(own_bundle)
    with pytest.raises(IntegrityError, match=r"zoo\.json"):
        load_bundle(own_bundle, REGISTRY)


def test_a_head_of_a_huge_size_is_refused_before_memory_is_taken(tmp_path: Path):
    written(tmp_path / "m", assembled("mlp", hidden=8))
    error = _spoil(tmp_path / "m", head__options={"hidden": 65_536, "layers": 6})
    assert "head.safetensors" in error.message


def test_a_missing_plugin_names_the_line_that_installs_it(own_bundle: Path):
    record = {"namespace": "ghost", "distribution": "zoo-ghost", "version": "2.1"}
    edit_bundle(own_bundle, head__name="ghost/head", plugins__1=record)
    with pytest.raises(PluginError, match="'ghost', which is not installed") as caught:
        load_bundle(own_bundle, REGISTRY)
    assert caught.value.hint.startswith("pip install zoo-ghost==2.1 ")


def test_files_that_the_manifest_does_not_list_are_not_read(tmp_path: Path):
    made = assembled("mlp", hidden=8)
    written(tmp_path / "m", made)
    folder = tmp_path / "m"
    stray = {name: value + 1 for name, value in load_file(folder / "head.safetensors").items()}
    (folder / "head.safetensors").unlink()
    write_manifest(folder)
    save_file(stray, folder / "head.safetensors")
    with pytest.raises(IntegrityError, match="head cannot be loaded"):
        load_bundle(folder, REGISTRY)


@pytest.mark.parametrize("name", ["zoo.json", "config.json", "model.safetensors"])
def test_one_changed_byte_is_found_and_the_file_named(name: str, own_bundle: Path):
    flip(own_bundle / name)
    with pytest.raises(IntegrityError, match=name):
        load_bundle(own_bundle, REGISTRY)


@pytest.mark.parametrize("name", ["zoo.json", "model.safetensors", "manifest.json"])
def test_a_missing_file_is_named(name: str, own_bundle: Path):
    (own_bundle / name).unlink()
    with pytest.raises(IntegrityError, match=name):
        load_bundle(own_bundle, REGISTRY)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("drop", "lacks"),
        ("add", "unexpected"),
        ("reshape", "model.safetensors"),
        ("nan", "NaN"),
        ("garbage", "safetensors"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: str, word: str, own_bundle: Path):
    path = own_bundle / "model.safetensors"
    tensors = load_file(path)
    first = next(name for name, value in tensors.items() if value.dim() == 4)
    if change == "drop":
        del tensors[first]
    elif change == "add":
        tensors["hook"] = torch.zeros(3)
    elif change == "reshape":
        tensors[first] = tensors[first][:1]
    elif change == "nan":
        tensors[first][0] = float("nan")
    save_file(tensors, path)
    if change == "garbage":
        path.write_bytes(b"\x80\x04cos\nsystem\n" * 10)
    write_manifest(own_bundle)
    with pytest.raises(IntegrityError, match=word):
        load_bundle(own_bundle, REGISTRY)


def test_a_bundle_of_links_loads_as_the_cache_of_a_hub_keeps_it(finished_run: Path, tmp_path: Path):
    snapshot = tmp_path / "models--me--x" / "snapshots" / ("a" * 40)
    blobs = shutil.copytree(finished_run / "model", tmp_path / "models--me--x" / "blobs")
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    assert load_bundle(snapshot, REGISTRY).document.columns[0].classes == CLASSES
