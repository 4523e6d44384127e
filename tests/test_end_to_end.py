"""The main job on real image files, with a folder hub, with a loopback hub, and in every form that data takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_fixtures import client_env
from PIL import Image
from safetensors.torch import load_file, save_file
from zoo_registry import Registry
from zoo_runs import CLASSES, done, draw_photos, picture, zoo

from zoo.bundle.read import load_bundle

TAG = "timm/test_resnet.r160_in1k"
QUICK = ("--backbone", "starter/cnn", "--batch-size", 16)


def timm_logits(bundle: Path, images: torch.Tensor) -> torch.Tensor:
    """What plain timm says of normalised images."""
    import timm

    with torch.no_grad():
        return timm.create_model(f"local-dir:{bundle}", pretrained=True).eval()(images)


def zoo_logits(bundle: Path, images: torch.Tensor, column: str = "label") -> torch.Tensor:
    """What the zoo says of them for a column."""
    with torch.no_grad():
        return load_bundle(bundle, Registry()).model.predict(images)[column]


def shell(*arguments: object, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own; a failure shows what it said."""
    command = [sys.executable, "-m", "zoo", *map(str, arguments)]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, f"zoo {arguments}\n{ran.stdout}\n{ran.stderr}"
    return ran


def test_the_main_job_with_a_folder_hub(finished_run: Path, photos: Path, tmp_path: Path):
    hub = tmp_path / "hub"
    measured = done("evaluate", finished_run, photos, "--json").json
    kept = json.loads((finished_run / "report.json").read_text())["val"]
    assert measured["metrics"] == pytest.approx(kept["metrics"])  # the same validation split is drawn again
    assert measured["samples"] == 6
    assert measured["metrics"]["accuracy"] > 0.5
    pushed = done("push", finished_run, "me/patterns", "--hub", hub, "--json").json
    pulled = done("pull", f"me/patterns@{pushed['revision']}", "--hub", hub, "--json").json
    assert pulled["revision"] == pushed["revision"]
    found = done("predict", "me/patterns", photos, "--hub", hub, "--json").json
    assert [row["file"] for row in found] == [
        row["file"] for row in done("predict", finished_run, photos, "--json").json
    ]
    assert {row["label"] for row in found} <= set(CLASSES)
    right = sum(Path(row["file"]).parent.name == row["label"] for row in found)
    assert right / len(found) > 0.7
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = zoo_logits(finished_run / "model", images)
    torch.testing.assert_close(timm_logits(Path(pulled["path"]), images), expected, rtol=1e-5, atol=1e-5)
    rows = done("list", "models", "--hub", hub, "--json").json
    assert [(row["name"], row["kind"], row["revision"]) for row in rows] == [
        ("me/patterns", "model", pushed["revision"])
    ]
    shown = done("show", "me/patterns", "--hub", hub, "--json").json
    assert {file["path"] for file in shown["files"]} == set(pushed["files"])


def test_unreadable_and_odd_files_are_listed_and_never_replaced(tmp_path: Path):
    data = draw_photos(tmp_path / "photos", each=8)
    whole = (data / "rings" / "4.jpg").read_bytes()
    (data / "rings" / "4.jpg").write_bytes(whole[: len(whole) // 2])
    (data / "rings" / "notes.txt").write_text("not an image")
    asked = (data, *QUICK, "--strategy", "linear:1", "--out", tmp_path / "run")
    refused = zoo("finetune", *asked, "--json")
    assert (refused.code, refused.json["error"]["kind"]) == (3, "data")
    asked = (*asked[:-1], tmp_path / "run2")
    ran = done("finetune", *asked, "--max-bad", 0.2)
    assert "1 .txt" in ran.err
    rows = (tmp_path / "run2" / "bad_samples.csv").read_text().splitlines()
    assert len(rows) == 2
    assert "rings/4.jpg" in rows[1]
    prediction = zoo("predict", tmp_path / "run2", data / "rings", "--json")
    assert prediction.code == 3
    unread = [row["file"] for row in prediction.json if "error" in row]
    assert unread == [str(data / "rings" / "4.jpg")]


def test_the_recipe_of_a_run_gives_the_same_bits_again(finished_run: Path, tmp_path: Path):
    done("finetune", "--recipe", finished_run / "recipe.toml", "--out", tmp_path / "again")
    first, again = finished_run / "model", tmp_path / "again" / "model"
    for name in ("model.safetensors", "config.json", "zoo.json", "README.md"):
        assert (first / name).read_bytes() == (again / name).read_bytes(), name
    assert (finished_run / "recipe.toml").read_text() == (tmp_path / "again" / "recipe.toml").read_text()


def test_a_dry_run_shows_the_recipe_and_writes_nothing(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    said = done("finetune", photos, "--backbone", TAG, "--strategy", "linear:2,full", "--dry-run", "--json").json
    assert said["backbone"]["name"] == TAG
    assert said["data"]["splits"] == {"train": 24, "val": 6}
    assert said["recipe"]["phase"][0]["epochs"] == 2
    assert TAG in said["weights"]
    assert list(tmp_path.iterdir()) == []


def test_another_image_size_and_one_channel_travel_into_the_bundle(photos: Path, tmp_path: Path):
    options = (*QUICK, "--image-size", 48, "--in-chans", 1, "--strategy", "linear:1", "--out", tmp_path / "run")
    done("finetune", photos, *options)
    bundle = tmp_path / "run" / "model"
    config = json.loads((bundle / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [1, 48, 48]
    images = torch.randn(2, 1, 48, 48, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(timm_logits(bundle, images), zoo_logits(bundle, images), rtol=1e-5, atol=1e-5)
    assert done("predict", bundle, photos / "rings" / "0.jpg", "--json").json[0]["label"] in CLASSES


def table(root: Path, columns: dict[str, Any], count: int = 24) -> Path:
    """``table.csv`` of drawn images: column -> function of class and number."""
    root.mkdir(exist_ok=True)
    lines = [",".join(["image", *columns])]
    for number in range(count):
        kind = CLASSES[number % 3]
        Image.fromarray(picture(kind, number, 32)).save(root / f"{number}.png")
        lines.append(",".join([f"{number}.png", *(str(make(kind, number)) for make in columns.values())]))
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return root / "table.csv"


def test_a_table_with_several_labels_a_sample(tmp_path: Path):
    data = table(tmp_path / "data", {"tags": lambda kind, n: f"{kind};{'even' if n % 2 else 'odd'}"})
    options = ("--task", "multilabel", *QUICK, "--strategy", "linear:2", "--set", "head.threshold=0.25")
    ran = done("finetune", data, *options, "--out", tmp_path / "run", "--json").json
    assert "map" in ran["metrics"]
    row = done("predict", tmp_path / "run", tmp_path / "data" / "0.png", "--top", 2, "--json").json[0]
    assert row["column"] == "tags"
    assert len(row["top"]) == 2
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    every = done("predict", tmp_path / "run", data.parent / "0.png", "--top", 9, "--json").json[0]["top"]
    assert set(row["labels"]) == {r["label"] for r in every if r["score"] >= 0.25}


def test_a_table_of_numbers(tmp_path: Path):
    data = table(tmp_path / "data", {"size": lambda kind, n: 10 * CLASSES.index(kind) + n / 100})
    ran = done("finetune", data, *QUICK, "--strategy", "linear:2", "--out", tmp_path / "run", "--json").json
    assert {"mae", "r2"} <= set(ran["metrics"])
    row = done("predict", tmp_path / "run", tmp_path / "data" / "0.png", "--json").json[0]
    assert set(row) == {"file", "column", "value"}
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    bundle = tmp_path / "run" / "model"
    expected = zoo_logits(bundle, images, "size")
    torch.testing.assert_close(timm_logits(bundle, images).squeeze(1), expected, rtol=1e-5, atol=1e-4)


def test_a_table_of_several_label_columns(tmp_path: Path):
    data = table(tmp_path / "data", {"kind": lambda kind, n: kind, "side": lambda kind, n: "lr"[n % 2]})
    named = ("--label-column", "kind", "--label-column", "side")
    ran = done("finetune", data, *named, *QUICK, "--strategy", "linear:1", "--out", tmp_path / "run", "--json").json
    assert {"kind.accuracy", "side.accuracy"} <= set(ran["metrics"])
    rows = done("predict", tmp_path / "run", tmp_path / "data" / "0.png", "--json").json
    assert [row["column"] for row in rows] == ["kind", "side"]
    bundle = tmp_path / "run" / "model"
    assert (bundle / "head.safetensors").exists()  # two columns fold into no single classifier
    assert {"confusion_kind.png", "confusion_side.png"} <= {path.name for path in bundle.iterdir()}
    measured = done("evaluate", tmp_path / "run", data, *named, "--json").json
    assert set(measured["columns"]) == {"kind", "side"}


def publish_random_weights(server: Any, folder: Path, env: dict[str, str]) -> None:
    """Put random weights of the tag's architecture where timm keeps its own: ``timm/...`` on the loopback hub."""
    import timm
    from huggingface_hub import HfApi

    torch.manual_seed(5)
    model = timm.create_model(TAG.removeprefix("timm/"), pretrained=False)
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "test_resnet", "num_classes": 1000}))
    api = HfApi(endpoint=server.url, token=env["HF_TOKEN"])
    api.create_repo(TAG, private=False, exist_ok=True)
    with (folder / "model.safetensors").open("rb") as stream:
        api.upload_file(path_or_fileobj=stream, path_in_repo="model.safetensors", repo_id=TAG)
    api.upload_file(path_or_fileobj=folder / "config.json", path_in_repo="config.json", repo_id=TAG)


@pytest.mark.slow
def test_the_main_job_with_the_hub_protocol_and_a_timm_tag_from_it(loopback: Any, photos: Path, tmp_path: Path):
    server = loopback(orgs=["lab", "timm"])
    env = client_env(server, tmp_path / "home") | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    publish_random_weights(server, tmp_path / "weights", env)
    asked = ("--backbone", TAG, "--head", "linear", "--strategy", "linear:2,full:1", "--image-size", 64)
    shell("finetune", photos, *asked, "--out", tmp_path / "run", env=env)
    document = json.loads((tmp_path / "run" / "model" / "zoo.json").read_text())
    assert document["base"]["repo"] == TAG
    assert len(document["base"]["revision"]) == 40
    start = load_file(tmp_path / "weights" / "model.safetensors")
    trained = load_file(tmp_path / "run" / "model" / "model.safetensors")
    shared = [name for name, value in trained.items() if name in start and value.shape == start[name].shape]
    assert len(shared) == len(trained) - 2  # all but the classifier
    moved = max(float((trained[n] - start[n]).abs().max()) for n in shared if n.endswith("weight"))
    assert 0 < moved < 0.5, "it was trained from the hub's weights"
    shell("push", tmp_path / "run", "me/patterns", "--public", env=env)
    pulled = json.loads(shell("pull", "me/patterns", "--json", env=env).stdout)
    offline = env | {"HF_HUB_OFFLINE": "1"}
    said = json.loads(shell("predict", "me/patterns", photos / "rings" / "0.jpg", "--json", env=offline).stdout)
    assert said[0]["label"] in CLASSES
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = zoo_logits(tmp_path / "run" / "model", images)
    torch.testing.assert_close(timm_logits(Path(pulled["path"]), images), expected, rtol=1e-5, atol=1e-5)
    assert {row["status"] for row in server.log("resolve") if row["repo"] == TAG} <= {200, 302, 307}
