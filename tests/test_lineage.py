"""Where a model comes from (``zoo show``), and which models there are (``zoo list models``)."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from hub_fixtures import TOKEN, write_bundle
from zoo_registry import Registry
from zoo_runs import assembled, done, edit_bundle, written, zoo

from zoo.bundle.document import read_document
from zoo.hub.files import sha256_of
from zoo.hub.folder import FolderHub
from zoo.lineage import DEEPEST, learned, trace


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of random weights; for reading only."""
    folder = tmp_path_factory.mktemp("made") / "bundle"
    written(folder, assembled("basics/linear"), metrics={"val": {"accuracy": 0.5}})
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> Path:
    """A working folder, a cache and a folder hub of the test's own."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def publish(here: Path, made: Path, name: str, base: dict | None, **changes: object) -> dict[str, str]:
    """A bundle on the hub that began with ``base``; the base that another one says of it."""
    folder = Path(shutil.copytree(made, here / name.replace("/", "_")))
    edit_bundle(folder, base=base, **changes)
    revision = FolderHub(here / "hub").push(folder, name, message="m").revision
    sha256 = sha256_of(folder / "model.safetensors")
    return {"kind": "hub", "repo": name, "file": "model.safetensors", "revision": revision, "sha256": sha256}


def test_the_chain_is_followed_to_the_base(here, made):
    root = {"kind": "hub", "repo": "timm/test_vit.r160_in1k", "file": "model.safetensors"}
    root |= {"revision": "c" * 40, "sha256": "d" * 64}
    first = publish(here, made, "me/first", root, backbone__name="timm/test_vit.r160_in1k")
    second = publish(here, made, "me/second", first)
    publish(here, made, "me/third", second)
    shown = done("show", "me/third", "--json").json
    names = [(s["relation"], s["kind"], s["name"], s["revision"]) for s in shown["lineage"]]
    assert names == [
        ("model", "bundle", "me/third", shown["revision"]),
        ("base", "bundle", "me/second", second["revision"]),
        ("base", "bundle", "me/first", first["revision"]),
        ("base", "hub", "timm/test_vit.r160_in1k", "c" * 40),  # the backbone's own: no hub is asked about it
    ]
    assert [s["problem"] for s in shown["lineage"]] == [None] * 4
    assert shown["lineage"][1]["sha256"] == second["sha256"]
    assert shown["lineage"][1]["learned"] == "linear:1"
    assert shown["document"]["backbone"]["name"] == "starter/cnn"
    text = done("show", "me/third").out
    assert f"from me/second@{second['revision'][:12]}, starter/cnn, linear:1" in text
    assert "from timm/test_vit.r160_in1k@cccccccccccc" in text


def test_a_folder_has_the_same_chain(here, made):
    first = publish(here, made, "me/first", None)
    folder = Path(shutil.copytree(made, here / "mine"))
    edit_bundle(folder, base=first)
    steps = done("show", folder, "--json").json["lineage"]
    assert [s["name"] for s in steps] == [str(folder), "me/first", "random weights"]
    assert steps[0]["sha256"] == sha256_of(folder / "model.safetensors")


def test_an_ancestor_that_is_gone_ends_the_chain_and_says_why(here, made):
    first = publish(here, made, "me/first", None)
    publish(here, made, "me/second", first)
    shutil.rmtree(here / "hub/me/first")
    last = done("show", "me/second", "--json").json["lineage"][-1]
    assert (last["name"], last["revision"]) == ("me/first", first["revision"])
    assert "no repo 'me/first'" in last["problem"]
    assert "is not known" in done("show", "me/second").out


def test_a_chain_that_bites_its_tail_or_never_ends_is_cut(made, monkeypatch):
    document = read_document(made / "zoo.json", where="x")

    def with_base(repo: str):
        return dataclasses.replace(document, base={"kind": "hub", "repo": repo, "revision": "a" * 40})

    monkeypatch.setattr("zoo.lineage._document_of", lambda base, hub, offline: with_base("me/same"))
    steps = trace(with_base("me/same"), name="x", registry=Registry())
    assert [s.name for s in steps] == ["x", "me/same", "me/same"]
    monkeypatch.setattr("zoo.lineage._document_of", lambda base, hub, offline: with_base(base["repo"] + "x"))
    assert len(trace(with_base("me/x"), name="x", registry=Registry())) == DEEPEST + 1


def test_other_kinds_of_base_and_teachers(made):
    document = read_document(made / "zoo.json", where="x")
    package = {"kind": "package", "package": "zoo_starter", "resource": "w.safetensors", "sha256": "e" * 64}
    taught = {**document.recipe, "teachers": {"me/big": {"revision": "b" * 40, "sha256": "f" * 64}}}
    steps = trace(dataclasses.replace(document, base=package, recipe=taught), name="x", registry=Registry())
    assert [(s.relation, s.kind, s.name) for s in steps] == [
        ("model", "bundle", "x"),
        ("teacher", "hub", "me/big"),
        ("base", "package", "zoo_starter: w.safetensors"),
    ]
    file = {"kind": "file", "sha256": "e" * 64}
    last = trace(dataclasses.replace(document, base=file), name="x", registry=Registry())[-1]
    assert (last.kind, last.name, last.sha256) == ("file", "a local file", "e" * 64)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (
            {"phase": [{"strategies": ["basics/linear"], "epochs": 3}, {"strategies": [{"name": "x/full"}]}]},
            "linear:3,full",
        ),
        ({"phase": [{"strategies": [{"name": "b/a"}, {"name": "b/c"}], "steps": 9}]}, "a+c:9s"),
        ({"phase": "none"}, ""),
        ({"phase": [{"strategies": 3}, 4, {"strategies": [5]}]}, ""),
        ({}, ""),
    ],
)
def test_a_recipe_in_a_line(recipe, words):
    assert learned(recipe) == words


def test_tags_are_shown(here, made):
    revision = publish(here, made, "me/x", None)["revision"]
    FolderHub(here / "hub").tag("me/x", "v1", revision)
    assert done("show", "me/x@v1", "--json").json["versions"] == {"v1": revision}
    assert f"versions: v1 ({revision[:12]})" in done("show", "me/x").out


# ---------------------------------------------------------------------- zoo list models


def test_models_are_those_here_and_those_on_the_hub(here, made):
    publish(here, made, "me/x", None)
    shutil.copytree(made, "bundle")
    run = Path("runs/1")
    run.mkdir(parents=True)
    (run / "recipe.toml").touch()
    shutil.copytree(made, run / "model")
    Path("runs/2").mkdir()
    (Path("runs/2") / "recipe.toml").touch()  # not finished: no model
    Path("broken").mkdir()
    Path("broken/zoo.json").write_text("{")
    Path("broken/manifest.json").write_text("{}")
    rows = done("list", "models", "--json").json
    assert {(r["name"], r["where"]) for r in rows} == {("bundle", "here"), ("runs/1", "here"), ("me/x", "hub")}
    assert (
        next(r for r in rows if r["name"] == "bundle")["summary"] == "starter/cnn + basics/linear, val accuracy 0.5000"
    )
    assert [r["name"] for r in done("list", "models", "run*", "--json").json] == ["runs/1"]
    assert [r["name"] for r in done("list", "models", "me/", "--json").json] == ["me/x"]
    assert "here" in done("list", "models").out


def test_a_hub_that_does_not_answer_leaves_those_here_and_the_exit_code(here, made):
    alone = zoo("list", "models", "--json")
    assert (alone.code, alone.json["error"]["kind"]) == (4, "hub")
    shutil.copytree(made, "bundle")
    ran = zoo("list", "models", "--json")
    assert ran.code == 4
    assert [r["name"] for r in ran.json] == ["bundle"]
    assert "no hub folder" in ran.lines("error:")[0]


def test_local_models_are_listed_without_a_request(here, loopback, monkeypatch):
    from huggingface_hub import constants

    server = loopback()
    monkeypatch.setenv("ZOO_HUB", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    from zoo.hub import open_hub

    revision = open_hub().push(write_bundle(here / "b"), "me/x", message="m").revision
    assert done("list", "models", "--local", "--json").json == []
    done("pull", "me/x")
    sent = len(server.log())
    rows = done("list", "models", "--local", "--json").json
    assert [(r["name"], r["revision"], r["where"]) for r in rows] == [("me/x", revision, "cache")]
    assert done("list", "models", "--local", "other", "--json").json == []
    assert len(server.log()) == sent
    assert [r["where"] for r in done("list", "models", "--json").json] == ["hub"]
