"""A user's wrong turns: one clear line with the next step, the documented exit code, nothing half-written."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from data_images import folder as image_folder
from hub_fixtures import client_env, flip, run_python
from zoo_registry import Registry
from zoo_runs import edit_bundle, zoo

from zoo.hub import open_hub


class Turn(NamedTuple):
    """A wrong turn: the command, its exit code, what the error line names, what the hint says."""

    command: str
    code: int
    names: tuple[str, ...]
    hint: tuple[str, ...] = ()
    kind: str = ""


START = "finetune {photos} --backbone starter/cnn "

TURNS = {
    # names
    "a mistyped backbone": Turn(
        "finetune {photos} --backbone starter/cn", 2, ("backbone 'starter/cn'",), ("starter/cnn",)
    ),
    "an empty name": Turn(
        "finetune {photos} --backbone= --head= --strategy=", 2, ("backbone ''", "head ''", "--strategy ''")
    ),
    "a mistyped head": Turn(START + "--head lineer", 2, ("head 'lineer'",), ("'linear'",), "unknown-name"),
    "a mistyped strategy": Turn(START + "--strategy linaer:3", 2, ("strategy 'linaer'",), ("'linear'",)),
    "a head as a backbone": Turn("finetune {photos} --backbone mlp", 2, ("backbone 'mlp'",), ("'mlp' is a head",)),
    "a namespace that is not installed": Turn("finetune {photos} --backbone ghost/net", 2, ("ghost/net",), ("ghost",)),
    "a mistyped option": Turn("finetune {photos} --bakbone x", 2, ("--bakbone",), ("zoo finetune --help",)),
    "a mistyped command": Turn("finetnue {photos}", 2, ("'finetnue'",), ("'finetune'",)),
    "a mistyped subcommand": Turn("plugin lst", 2, ("'lst'",), ("zoo plugin --help",)),
    "a mistyped kind to list": Turn("list backbonez resnet", 2, ("'backbonez'",), ("'backbones'",)),
    "a mistyped kind to show": Turn("show hed linear", 2, ("hed linear",), ("backbone, head, strategy",)),
    "a name that nobody has": Turn("show qqzzqqzzqq", 2, ("'qqzzqqzzqq'",), ("zoo list",)),
    "a mistyped setting": Turn(START + "--set train.clipp=1", 2, ("train.clipp", "'clip'")),
    "a setting of an unknown root": Turn(START + "--set trian.clip=1", 2, ("'trian.clip'", "'train'")),
    "a setting without a value": Turn(START + "--set train.clip", 2, ("'train.clip'", "KEY=VALUE")),
    "a mistyped head option": Turn(START + "--head mlp --set head.hiden=3", 2, ("head.hiden", "'hidden'")),
    "a setting of a phase that is not there": Turn(START + "--set strategy.3.rate=1", 2, ("strategy.3.rate", "2"), ()),
    "a mistyped augmentation": Turn(START + "--augment lihgt", 2, ("train.augment", "'lihgt'", "light")),
    "a mistyped device": Turn(START + "--device cdua", 2, ("'cdua'",), ("auto, cpu, cuda",)),
    "a mistyped task": Turn(START + "--task clasification", 2, ("data.task", "'clasification'", "classification")),
    # data
    "no data": Turn("finetune", 2, ("DATA",), ("folder",)),
    "a missing folder": Turn("finetune {places}/photoz --backbone starter/cnn", 2, ("photoz",), ("'photos'",)),
    "an empty folder": Turn("finetune {places}/empty --backbone starter/cnn", 3, ("empty",), ("FOLDER/CLASS/IMAGE",)),
    "an image as data": Turn("finetune {photos}/rings/0.jpg --backbone starter/cnn", 2, ("0.jpg",), (".csv",)),
    "a table of a form that nobody reads": Turn(
        "finetune {places}/t.xlsx --backbone starter/cnn", 2, ("t.xlsx",), (".csv",)
    ),
    "images without classes": Turn(
        "finetune {photos}/rings --backbone starter/cnn", 3, ("rings",), ("FOLDER/CLASS/IMAGE",)
    ),
    "one class": Turn("finetune {places}/one --backbone starter/cnn", 3, ("one class", "'a'"), ("two classes",)),
    "a class of val that train lacks": Turn(
        "finetune {places}/differ --backbone starter/cnn", 3, ("'c'", "val", "train")
    ),
    "a mistyped source": Turn("finetune digit: --backbone starter/cnn", 2, ("digit:",), ("digits",)),
    "a mistyped column": Turn("finetune {places}/t.csv --label-column lable", 2, ("lable",), ("label",)),
    "a column of what is no table": Turn(START + "--label-column x", 2, ("--label-column", "table"), ("leave it out",)),
    "other classes than the model's": Turn("evaluate {run} digits:", 3, ("'0'", "label"), ("'rings'",), "data"),
    "a mistyped split": Turn("evaluate {run} {photos} --split tset", 2, ("'tset'",), ("train, val, test",)),
    "a split that is not there": Turn("evaluate {run} {photos} --split test", 2, ("test split",), ("all",)),
    # values
    "a rate of zero": Turn(START + "--lr 0", 2, ("train.lr", "out of range")),
    "a negative rate": Turn(START + "--lr -1", 2, ("train.lr", "out of range")),
    "a rate that is no number": Turn(START + "--lr nan", 2, ("train.lr", "finite")),
    "no batch": Turn(START + "--batch-size 0", 2, ("train.batch_size", "out of range")),
    "half a batch": Turn(START + "--batch-size 0.5", 2, ("train.batch_size", "integer")),
    "no epochs": Turn(START + "--epochs 0", 2, ("train.epochs", "out of range")),
    "a negative clip": Turn(START + "--set train.clip=-1", 2, ("train.clip", "out of range")),
    "a rate of a phase that is none": Turn(START + "--set strategy.1.rate=fast", 2, ("phase 1", "'fast'")),
    "an image of no size": Turn(START + "--image-size 0", 2, ("--image-size",), ("zoo finetune --help",)),
    "several errors at once": Turn(
        START + "--lr 0 --epochs x --batch-size -3 --set train.clip=-1 --head nohead --strategy nostrategy:3",
        2,
        ("train.lr", "train.epochs", "train.batch_size", "train.clip", "'nohead'", "'nostrategy'"),
        ("zoo list heads", "zoo list strategies"),
    ),
    # strategies and heads
    "a strategy without a length": Turn(START + "--strategy linear:", 2, ("phase 1", "length"), ("linear:3,full:10",)),
    "a strategy without a name": Turn(START + "--strategy linear:3,:5", 2, ("phase 2", "name"), ("linear:3,full:10",)),
    "a phase of nothing": Turn(START + "--strategy linear:0", 2, ("phase 1", "0")),
    "two tuning strategies in a phase": Turn(START + "--strategy linear+full:3", 2, ("phase 1", "linear", "full")),
    "steps for what takes none": Turn(START + "--head prototype --strategy fit:3", 2, ("fit", "no steps"), ("'fit'",)),
    "steps before the head is fitted": Turn(
        START + "--head ridge --strategy full:2,fit", 2, ("phase 1", "ridge", "'fit'"), ("fit,full,fit",)
    ),
    "a prototype that nobody fits": Turn(
        START + "--head prototype --strategy full:3", 2, ("prototype",), ("--strategy fit",)
    ),
    "a head that cannot fit itself": Turn(
        START + "--head linear --strategy fit --no-pretrained", 2, ("fit", "linear"), ("prototype",)
    ),
    "a head for another task": Turn(
        START + "--head regression", 2, ("regression", "label (classification)"), ("zoo list heads",)
    ),
    "epochs that have no phase": Turn(
        START + "--strategy linear:3 --epochs 4", 2, ("--epochs 4", "linear:3"), ("linear:3,full",)
    ),
    "a size that the backbone does not take": Turn(
        "finetune {photos} --backbone {fixed} --image-size 96 --no-pretrained",
        2,
        ("{fixed}", "96"),
        ("--capability image_size",),
    ),
    "a device that is not here": Turn(START + "--device cuda:7", 2, ("'cuda:7'",), ("--device cpu",)),
    # runs and recipes
    "a run folder that is taken": Turn(START + "--out {run}", 6, ("finished run",), ("another --out",), "conflict"),
    "a folder that is taken": Turn(START + "--out {photos}", 6, ("not empty",), ("another --out",), "conflict"),
    "resume without a folder": Turn("finetune --resume", 2, ("--resume",), ("--out RUN",)),
    "resume without a run": Turn("finetune --resume --out nowhere", 2, ("'nowhere'",), ("--out",)),
    "resume of a finished run": Turn("finetune --resume --out {run}", 6, ("finished",), ("zoo evaluate",), "conflict"),
    "resume of a finished run by another recipe": Turn(
        "finetune --resume --out {run} --lr 1 --set train.clip=1", 6, ("finished",), ("zoo evaluate",), "conflict"
    ),
    "a recipe that is not there": Turn(START + "--recipe nothing.toml", 2, ("'nothing.toml'",), ("recipe.toml",)),
    "a recipe that is no TOML": Turn(START + "--recipe {places}/broken.toml", 2, ("broken.toml",), ("recipe.toml",)),
    "a recipe with unknown keys": Turn(
        START + "--recipe {places}/odd.toml",
        2,
        ("'bakbone'", "clipp", "phase 1", "ephocs", "seed", "[backbone] is missing"),
        ("recipe.toml",),
    ),
    # models
    "a model that is not there": Turn("evaluate nothing {photos}", 2, ("'nothing'",), ("run folder",)),
    "data in place of a model": Turn("evaluate {photos} {photos}", 2, ("neither a run nor a bundle",), ("zoo.json",)),
    "arguments the wrong way round": Turn("evaluate {photos} {run}", 2, ("photos", "neither a run"), ("zoo.json",)),
    "no files to predict": Turn("predict {run}", 2, ("FILES",), ("zoo predict --help",)),
    "a file that is not there": Turn("predict {run} {photos}/rings/99.jpg", 2, ("99.jpg",), ("",)),
    "a bundle that was tampered with": Turn(
        "predict {tampered} {photos}", 5, ("model.safetensors", "sha256"), ("",), "integrity"
    ),
    "a push of a tampered bundle": Turn(
        "push {tampered} me/x --hub hub", 5, ("model.safetensors", "sha256"), ("",), "integrity"
    ),
    "a push of an enlarged bundle": Turn(
        "push {enlarged} me/x --hub hub", 5, ("extra.txt",), ("remove it",), "integrity"
    ),
    "a bundle whose plugin is missing": Turn(
        "evaluate {orphan} {photos}",
        7,
        ("'ghost/net'", "'ghost'", "not installed"),
        ("pip install zoo-ghost==1.2",),
        "plugin",
    ),
    # hubs
    "a push of nothing": Turn("push nowhere me/x --hub hub", 2, ("'nowhere'",), ("run folder",)),
    "a push to no name": Turn("push {run} flowers --hub hub", 2, ("'flowers'",), ("owner/name",)),
    "a pull of no name": Turn("pull flowers --hub {hub}", 2, ("'flowers'",), ("owner/name",)),
    "a hub that is not there": Turn("pull me/x --hub nowhere", 4, ("nowhere",), ("--hub",), "hub"),
    "a hub of another protocol": Turn("pull me/x --hub ftp://example.org", 2, ("'ftp'",), ("folder",)),
    "a repo that is not there": Turn("pull me/flower --hub {hub}", 4, ("me/flower",), ("me/flowers",), "hub"),
    "a revision that is not there": Turn("pull me/flowers@0000000 --hub {hub}", 4, ("0000000",), ("",), "hub"),
    "no network": Turn(
        "finetune {photos} --backbone timm/test_resnet.r160_in1k --hub http://127.0.0.1:9",
        4,
        ("timm/test_resnet.r160_in1k", "127.0.0.1:9"),
        ("installed weights", "starter/cnn"),
        "hub",
    ),
    "offline and not cached": Turn(
        "finetune {photos} --backbone timm/test_resnet.r160_in1k --hub http://127.0.0.1:9 --offline",
        4,
        ("timm/test_resnet.r160_in1k", "offline", "not in the cache"),
        ("starter/cnn",),
        "hub",
    ),
    "weights that are not safe": Turn(
        "finetune {photos} --backbone {unsafe}", 2, ("{unsafe}", "weights"), ("--no-pretrained",)
    ),
}


@pytest.fixture(scope="module")
def places(photos: Path, finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the commands of the table name, by the word in braces."""
    root = tmp_path_factory.mktemp("places")
    (root / "photos").symlink_to(photos)
    (root / "empty").mkdir()
    image_folder(root / "one", {"a": 4})
    image_folder(root / "differ", {"train/a": 3, "train/b": 3, "val/a": 2, "val/c": 2})
    (root / "t.xlsx").write_bytes(b"PK")
    rows = [f"{photos}/rings/{i}.jpg,{'ab'[i % 2]}\n" for i in (0, 4, 5, 6)]
    (root / "t.csv").write_text("image,label\n" + "".join(rows))
    (root / "broken.toml").write_text("[backbone\n")
    (root / "odd.toml").write_text(
        'seed = "x"\n[bakbone]\nname = "cnn"\n[head]\nname = "linear"\n[train]\nclipp = 1\n'
        '[[phase]]\nstrategies = ["linear"]\nephocs = 3\n'
    )
    for name in ("tampered", "enlarged", "orphan"):
        shutil.copytree(finished_run / "model", root / name)
    flip(root / "tampered" / "model.safetensors")
    (root / "enlarged" / "extra.txt").write_text("hello")
    record = {"namespace": "ghost", "distribution": "zoo-ghost", "version": "1.2"}
    edit_bundle(root / "orphan", backbone__name="ghost/net", plugins__0=record)
    open_hub(str(root / "hub")).push(finished_run / "model", "me/flowers", message="for the tests")
    return {
        **{name: str(root / name) for name in ("tampered", "enlarged", "orphan", "hub")},
        **{"places": str(root), "photos": str(photos), "run": str(finished_run)},
        **_backbones(),
    }


def _backbones() -> dict[str, str]:
    """Installed backbones that lack something."""
    entries = Registry().entries("backbone")
    fixed = next(e.name for e in entries if "image_size" not in e.spec.capabilities and e.spec.input.kind == "image")
    unsafe = next(e.name for e in entries if e.spec.weights is None or e.spec.weights.unsafe)
    return {"fixed": fixed, "unsafe": unsafe}


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS.keys())
def test_a_wrong_turn_is_one_clear_line_and_leaves_nothing(
    turn: Turn, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    words = [word.format(**places) for word in turn.command.split()]
    outcome = zoo(*words, "--json")
    assert outcome.code == turn.code, outcome.err
    errors, hints = outcome.lines("error:"), outcome.lines("hint:")
    assert len(errors) == 1, outcome.err
    assert len(hints) <= 1
    for name in turn.names:
        assert name.format(**places) in errors[0]
    for part in turn.hint:
        assert hints, f"no hint beside: {errors[0]}"
        assert part in hints[0]
    assert "Traceback" not in outcome.err
    said = outcome.json["error"]
    assert set(said) == {"kind", "message", "hint"}
    assert said["message"] == errors[0]
    assert said["hint"] == (hints[0] if hints else None)
    assert not turn.kind or said["kind"] == turn.kind
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_error_is_on_standard_error_alone_and_debug_shows_the_traceback(photos: Path):
    outcome = zoo("finetune", photos, "--backbone", "starter/cn")
    assert outcome.out == ""
    with pytest.raises(Exception, match="unknown backbone 'starter/cn'"):
        zoo("finetune", photos, "--backbone", "starter/cn", "--debug")


def test_both_hashes_of_a_tampered_file_are_named(places: dict[str, str]):
    outcome = zoo("predict", places["tampered"], places["photos"])
    assert len(set(re.findall(r"\b[0-9a-f]{64}\b", outcome.err))) == 2


def test_a_disabled_plugin_is_told_from_a_missing_one(places: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ZOO_PLUGINS", "basics,timm")
    outcome = zoo("predict", places["run"], places["photos"], "--json")
    assert outcome.code == 7
    assert "ZOO_PLUGINS" in outcome.json["error"]["message"]


def test_several_wrong_things_of_a_recipe_and_the_command_line_are_said_together(places: dict[str, str]):
    recipe = f"{places['run']}/recipe.toml"
    outcome = zoo("finetune", "nowhere", "--recipe", recipe, "--set", "data.val_fraction=7", "--lr", "-1")
    assert outcome.code == 2
    assert "data.val_fraction" in outcome.err
    assert "train.lr" in outcome.err


@pytest.mark.slow
def test_without_a_network_the_command_ends_soon_and_offers_what_is_installed(photos: Path, tmp_path: Path):
    env = client_env(None, tmp_path / "home", HF_ENDPOINT="http://127.0.0.1:9")
    code = """
import sys
from zoo.cli.main import main
sys.exit(0 if main(sys.argv[1:]) == 4 else 1)
"""
    asked = ("finetune", photos, "--backbone", "timm/test_resnet.r160_in1k", "--out", tmp_path / "run", "--json")
    said = json.loads(run_python(code, *asked, env=env))
    assert said["error"]["kind"] == "hub"
    assert "starter/cnn" in said["error"]["hint"]
    assert not (tmp_path / "run").exists()
