"""``zoo push --delta`` and back: on a folder hub and a loopback hub, online, offline, and with the base gone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_fixtures import TOKEN, client_env, flip, run_python
from small_forms import TAG, logits, put_base, train
from zoo_runs import done, edit_bundle, zoo

from zoo.bundle import base as bases
from zoo.bundle import whole as wholes
from zoo.bundle.small import DELTA
from zoo.bundle.verify import Checked
from zoo.hub.folder import FolderHub


@pytest.fixture(autouse=True)
def _cache(own_cache: Path) -> None:
    """Each test has a cache of its own."""


@pytest.fixture(scope="module")
def tagged(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder hub with a timm tag's weights, and a run that trained the head on them; for reading only."""
    root = tmp_path_factory.mktemp("tagged")
    put_base(root / "hub", root / "weights")
    run = train(photos, root / "run", "linear:1", "--hub", root / "hub", "--image-size", 64, backbone=TAG)
    return root / "hub", run


@pytest.fixture
def pushed(tagged: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A hub of this test's own that holds the base and the run's delta, and the run."""
    hub, run = Path(shutil.copytree(tagged[0], tmp_path / "hub")), tagged[1]
    monkeypatch.setenv("ZOO_HUB", str(hub))
    with monkeypatch.context() as patched:  # the fresh process is in a test of its own
        patched.setattr("zoo.publishing.verify_in_fresh_process", lambda *_: Checked())
        done("push", run, "me/small", "--delta")
    return hub, run


def refused(*arguments: object) -> tuple[int, str]:
    """Exit code, and message with hint, of a command that must fail in one line."""
    outcome = zoo(*arguments, "--json")
    error = outcome.json["error"]
    text = f"{error['message']} | {error['hint']}"
    assert "\n" not in text
    return outcome.code, text


def shell(*arguments: object, env: dict[str, str]) -> Any:
    """What ``zoo ARGUMENTS --json`` prints, in a process of its own."""
    command = [sys.executable, "-m", "zoo", *map(str, arguments), "--json"]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, f"zoo {arguments}\n{ran.stdout}\n{ran.stderr}"
    return json.loads(ran.stdout)


@pytest.mark.slow
def test_a_delta_is_proved_pushed_and_pulled_as_the_whole_model(
    probe_run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import timm

    hub = tmp_path / "hub"
    ran = done("push", probe_run, "me/small", "--delta", "--hub", hub, "--json")
    assert DELTA in ran.json["files"]
    assert "model.safetensors" not in ran.json["files"]
    assert "3 MB, on starter/cnn of zoo-starter" in ran.err
    pulled = Path(done("pull", "me/small", "--hub", hub, "--json").json["path"])
    bundle = probe_run / "model"
    assert (pulled / "model.safetensors").read_bytes() == (bundle / "model.safetensors").read_bytes()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = (
            timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(x) for folder in (pulled, bundle)
        )
    assert torch.equal(found, expected)
    small = done("evaluate", "me/small", photos, "--hub", hub, "--json").json
    assert small["metrics"] == done("evaluate", probe_run, photos, "--json").json["metrics"]
    monkeypatch.setattr("zoo.publishing.verify_in_fresh_process", lambda *_: Checked())
    again = done("push", pulled, "me/again", "--hub", hub, "--delta", "--json").json
    assert DELTA in again["files"]  # what was pulled can be published again


def test_a_dry_run_of_a_delta_publishes_nothing(pushed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch):
    hub, run = pushed
    monkeypatch.setattr("zoo.publishing.verify_in_fresh_process", lambda *_: Checked())
    planned = done("push", run, "me/dry", "--delta", "--dry-run", "--json").json
    assert planned["files"][DELTA] < 10_000
    assert not (hub / "me" / "dry").exists()


def test_every_command_takes_a_delta(pushed: tuple[Path, Path], photos: Path, tmp_path: Path):
    hub, run = pushed
    picture = photos / "rings" / "0.jpg"
    expected = done("predict", run, picture, "--json").json[0]
    found = done("predict", "me/small", picture, "--json").json[0]
    assert (found["label"], found["score"]) == (expected["label"], expected["score"])
    folder = FolderHub(hub).pull("me/small").path  # a delta's folder, as another client may have fetched it
    assert done("predict", folder, picture, "--json").json[0]["score"] == expected["score"]
    assert done("show", folder, "--json").json["delta"]["base"]["repo"] == TAG
    assert "stored as a delta" in done("show", folder).out
    assert "stored as a delta" in done("show", "me/small").out
    listed = done("list", "models", "--json").json
    assert [row["name"] for row in listed] == ["me/small"]


def test_a_whole_model_is_made_once_and_mended(pushed: tuple[Path, Path], own_cache: Path, caplog: Any):
    hub, run = pushed
    pulled = Path(done("pull", "me/small", "--json").json["path"])
    assert pulled.parent == own_cache / "zoo" / "whole"
    stamp = (pulled / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(hub / "timm")  # nothing asks for the base again
    assert Path(done("pull", "me/small", "--json").json["path"]) == pulled
    assert (pulled / "model.safetensors").stat().st_mtime_ns == stamp
    flip(pulled / "model.safetensors")
    assert refused("pull", "me/small", "--offline")[0] == 4
    put_base(hub, hub.parent / "weights")
    done("pull", "me/small")
    assert torch.equal(logits(pulled), logits(run / "model"))


def test_a_base_that_cannot_be_had(pushed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch):
    hub, _ = pushed
    shutil.rmtree(hub / "timm")
    code, text = refused("pull", "me/small", "--offline")
    assert code == 4
    assert f"me/small is a delta on {TAG}@" in text
    assert "run it once online: zoo pull timm/test_vit" in text
    monkeypatch.setattr(bases, "hubs", lambda hub, offline: [bases.open_hub(hub)])
    code, text = refused("evaluate", "me/small", "digits:")
    assert code == 4
    assert f"no repo '{TAG}'" in text
    assert "without --delta" in text


def test_a_base_that_is_another_file(pushed: tuple[Path, Path], tmp_path: Path):
    hub, _ = pushed
    folder = Path(shutil.copytree(FolderHub(hub).pull("me/small").path, tmp_path / "small"))
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    edit_bundle(folder, delta__base__sha256="0" * 64)
    code, text = refused("predict", folder, folder / "confusion.png")
    assert (code, "which is not what it was" in text) == (5, True)
    flip(folder / DELTA)
    assert refused("predict", folder, folder / "confusion.png")[0] == 5


def test_a_damaged_delta_is_refused_on_the_hub(pushed: tuple[Path, Path]):
    hub, _ = pushed
    flip(FolderHub(hub).pull("me/small").path / DELTA)
    code, text = refused("pull", "me/small")
    assert (code, DELTA in text) == (5, True)


def test_what_cannot_be_a_delta_says_so(finished_run: Path, photos: Path, tmp_path: Path):
    code, text = refused("push", finished_run, "me/x", "--hub", tmp_path / "hub", "--delta")
    assert (code, "hardly less" in text, "without --delta" in text) == (2, True, True)
    scratch = train(photos, tmp_path / "run", "full:1", "--no-pretrained", backbone="starter/cnn")
    code, text = refused("push", scratch, "me/x", "--hub", tmp_path / "hub", "--delta")
    assert (code, "random weights" in text) == (2, True)
    assert not (tmp_path / "hub").exists()


def test_a_write_that_fails_leaves_nothing_behind(
    pushed: tuple[Path, Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("zoo.bundle.delta.write_manifest", full)
        code, text = refused("pull", "me/small")
    assert (code, "No space left" in text, "HF_HOME" in text) == (4, True, True)
    assert list((own_cache / "zoo" / "whole").iterdir()) == []
    stray = wholes.whole_folder() / ".old.12345678"
    stray.mkdir()
    os.utime(stray, (0, 0))
    done("pull", "me/small")
    assert not stray.exists()


@pytest.mark.slow
def test_lora_on_a_timm_tag_from_the_loopback_hub(loopback: Any, photos: Path, tmp_path: Path):
    """The whole way with real clients: base and delta on one hub, pulled in a fresh home, then offline; plain peft."""
    from huggingface_hub import HfApi

    server = loopback(orgs=["lab", "timm"])
    put_base(tmp_path / "unused", tmp_path / "weights")
    api = HfApi(endpoint=server.url, token=TOKEN)
    api.create_repo(TAG, private=False)
    for name in ("model.safetensors", "config.json"):
        with (tmp_path / "weights" / name).open("rb") as stream:
            api.upload_file(path_or_fileobj=stream, path_in_repo=name, repo_id=TAG)
    env = client_env(server, tmp_path / "one")
    asked = ("--backbone", TAG, "--strategy", "linear:1,peft/lora:2", "--image-size", 64)
    shell("finetune", photos, *asked, "--out", tmp_path / "run", env=env)
    said = shell("push", tmp_path / "run", "me/small", "--delta", "--public", env=env)
    assert {DELTA, "adapter/adapter_model.safetensors"} < set(said["files"])
    fresh = client_env(server, tmp_path / "two")
    pulled = shell("pull", "me/small", env=fresh)
    torch.testing.assert_close(logits(Path(pulled["path"])), logits(tmp_path / "run" / "model"), rtol=1e-5, atol=1e-5)
    picture = photos / "rings" / "0.jpg"
    offline = fresh | {"HF_HUB_OFFLINE": "1"}
    expected = shell("predict", tmp_path / "run", picture, env=env)[0]
    found = shell("predict", "me/small", picture, env=offline)[0]
    assert found["label"] == expected["label"]
    assert found["score"] == pytest.approx(expected["score"], abs=1e-5)
    card = (Path(pulled["path"]) / "README.md").read_text()
    code = next(b for b in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "PeftModel" in b)
    code = code.replace("owner/name", "me/small")  # the card's own words
    code += """
import sys, torch
whole = timm.create_model("local-dir:" + sys.argv[1], pretrained=True, num_classes=0)
x = torch.randn(2, 3, 64, 64)
with torch.no_grad():
    print(float((backbone.eval()(x) - whole.eval()(x)).abs().max()))
"""
    assert float(run_python(code, pulled["path"], env=fresh).splitlines()[-1]) < 1e-4
    shutil.rmtree(server.store.repos / "timm")
    stranger = client_env(server, tmp_path / "three")
    command = [sys.executable, "-m", "zoo", "pull", "me/small", "--json"]
    ran = subprocess.run(command, env=stranger, capture_output=True, text=True, timeout=300, check=False)
    error = json.loads(ran.stdout)["error"]
    assert ran.returncode == 4
    assert f"me/small is a delta on {TAG}@" in error["message"]
    assert "or ask for the whole model" in error["hint"]
