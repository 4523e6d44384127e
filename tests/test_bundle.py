"""The bundle: complete, proved, loaded by others, and nothing in it can do more than be read."""

from __future__ import annotations

import getpass
import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_fixtures import write_manifest
from safetensors.torch import load_file, save_file
from zoo_registry import Column, IntegrityError, Registry
from zoo_runs import CLASSES, assembled, done, written, zoo

from zoo.assembly.assemble import Assembled
from zoo.bundle.card import front_matter, plain, render_card
from zoo.bundle.document import Document, read_document
from zoo.bundle.golden import check_golden, golden_inputs
from zoo.bundle.read import load_bundle, verify_bundle
from zoo.bundle.verify import Checked, verify_in_fresh_process
from zoo.hub import open_hub

REGISTRY = Registry()
FILES = {"README.md", "config.json", "confusion.png", "manifest.json", "model.safetensors", "zoo.json"}


def outputs(made: Assembled) -> torch.Tensor:
    """The trained model's own outputs for the golden inputs."""
    with torch.no_grad():
        return made.model.eval().predict(golden_inputs(made.input))["label"]


def of_timm(folder: Path, **arguments: Any) -> Any:
    """Plain timm's model of the folder."""
    import timm

    return timm.create_model(f"local-dir:{folder}", pretrained=True, **arguments).eval()


def of_zoo(folder: Path) -> torch.Tensor:
    """The loaded bundle's outputs for the golden inputs."""
    loaded = load_bundle(folder, REGISTRY)
    with torch.no_grad():
        return loaded.model.predict(golden_inputs(loaded.input))["label"]


def test_a_bundle_is_complete_and_its_manifest_is_true(finished_run: Path):
    folder = finished_run / "model"
    assert {path.name for path in folder.iterdir()} == FILES
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert set(listed) == FILES - {"manifest.json"}
    for name, row in listed.items():
        content = (folder / name).read_bytes()
        assert row == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    document = read_document(folder / "zoo.json", where="here")
    assert document.columns == (Column(name="label", classes=CLASSES),)
    assert document.base["kind"] == "package"
    assert document.base["sha256"] == REGISTRY.backbone("starter/cnn").spec.weights.sha256
    assert {p.distribution for p in document.plugins} == {"zoo-starter", "zoo-basics"}
    assert [p["strategies"][0]["name"] for p in document.recipe["phase"]] == ["basics/linear", "basics/full"]
    assert document.data["splits"] == {"train": 24, "val": 6}


def test_nothing_of_this_machine_is_in_a_bundle(finished_run: Path, photos: Path):
    private = {str(finished_run), str(photos.parent), str(Path.home()), "/tmp", "pytest-of"}
    private |= {
        name for name in (socket.gethostname(), getpass.getuser()) if len(name) > 4
    }  # shorter ones occur by chance
    for path in (finished_run / "model").iterdir():
        content = path.read_bytes()
        for word in private - {"/"}:
            assert word.encode() not in content, f"{word} in {path.name}"


@pytest.mark.slow
def test_a_fresh_process_reproduces_the_golden_logits(finished_run: Path):
    assert verify_in_fresh_process(finished_run / "model").difference < 1e-4


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "no golden outputs"),
        ({"label": [[0.0, 0.0, 0.0]] * 2, "other": [[0.0]]}, "no golden outputs"),
        ({"label": [[float("nan")] * 3] * 2}, "does not reproduce"),
        ({"label": [[0.0] * 3]}, "shape"),
        ({"label": [["a", "b", "c"]] * 2}, "not numbers"),
        ([1], "no golden outputs"),
    ],
)
def test_golden_outputs_that_prove_nothing_are_refused(finished_run: Path, outputs: Any, message: str):
    loaded = load_bundle(finished_run / "model", REGISTRY)
    golden = {**loaded.document.golden, "outputs": outputs}
    with pytest.raises(IntegrityError, match=message):
        check_golden(loaded.model, loaded.input, golden, where="here")


HEADS = {
    "linear": ("linear", "classification", {}, True),
    "prototype": ("prototype", "classification", {}, True),
    "multilabel": ("multilabel", "multilabel", {"threshold": 0.7}, True),
    "regression": ("regression", "regression", {}, True),
    "mlp": ("mlp", "classification", {"hidden": 16}, False),
    "cosine": ("cosine", "classification", {}, False),
    "normalised prototype": ("prototype", "classification", {"normalise": True}, False),
}


@pytest.mark.parametrize(("head", "kind", "options", "folds"), HEADS.values(), ids=HEADS.keys())
def test_plain_timm_loads_the_bundle_of_every_head(
    head: str, kind: str, options: dict[str, Any], folds: bool, tmp_path: Path
):
    made = assembled(head, kind, () if kind == "regression" else ("a", "b", "c"), **options)
    document = written(tmp_path / "m", made)
    expected = outputs(made)
    assert document.head_form == ("folded" if folds else "module")
    assert (tmp_path / "m" / "head.safetensors").exists() == (not folds)
    torch.testing.assert_close(of_zoo(tmp_path / "m"), expected, rtol=1e-4, atol=1e-4)
    assert verify_bundle(tmp_path / "m", REGISTRY) < 1e-3
    images = golden_inputs(made.input)
    with torch.no_grad():
        model = of_timm(tmp_path / "m")
        if folds:
            found = model(images)
            torch.testing.assert_close(
                found.squeeze(1) if kind == "regression" else found, expected, rtol=1e-4, atol=1e-4
            )
        else:
            assert model.num_classes == 0
            assert torch.equal(model(images), made.model.backbone(images))
    assert torch.equal(outputs(made), expected), "writing changed the model"


def test_a_fresh_process_of_transformers_agrees(tmp_path: Path):
    from PIL import Image
    from transformers import AutoModelForImageClassification, pipeline

    picture = Image.new("RGB", (80, 60), (200, 30, 90))
    for head, kind in (("linear", "classification"), ("multilabel", "multilabel")):
        made = assembled(head, kind, ("ä", "b c", "d"))
        written(tmp_path / head, made)
        model = AutoModelForImageClassification.from_pretrained(tmp_path / head).eval()
        with torch.no_grad():
            logits = model(golden_inputs(made.input)).logits
        torch.testing.assert_close(logits, outputs(made), rtol=1e-4, atol=1e-4)
        assert model.config.id2label == {0: "ä", 1: "b c", 2: "d"}
        scores = {
            row["label"]: row["score"] for row in pipeline("image-classification", model=str(tmp_path / head))(picture)
        }
        picture.save(tmp_path / "picture.png")
        rows = done("predict", tmp_path / head, tmp_path / "picture.png", "--top", 3, "--json").json
        for row in rows[0]["top"]:
            assert scores[row["label"]] == pytest.approx(row["score"], abs=1e-4)


def test_without_classes_the_backbone_alone_loads_in_timm_with_fresh_classes(tmp_path: Path):
    made = assembled("mlp", hidden=8)
    written(tmp_path / "m", made)
    assert of_timm(tmp_path / "m", num_classes=7)(golden_inputs(made.input)).shape == (2, 7)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == 0
    assert config["label_names"] == ["a", "b", "c"]
    assert "problem_type" not in config


# ------------------------------------------------------------------ the card


def test_the_hub_reads_the_card(finished_run: Path):
    from huggingface_hub import ModelCard, metadata_load

    path = finished_run / "model" / "README.md"
    card = ModelCard.load(path)
    assert card.data.license == "apache-2.0"
    assert {"zoo", "image-classification"} <= set(card.data.tags)
    assert card.data.library_name == "timm"
    assert card.data.pipeline_tag == "image-classification"
    measured = read_document(path.with_name("zoo.json"), where="here").metrics["val"]
    found = {row.metric_type: row.metric_value for row in card.data.eval_results if row.dataset_split == "val"}
    assert found == {name: pytest.approx(value, abs=1e-6) for name, value in measured.items()}
    assert metadata_load(path)["model-index"][0]["name"] == "cnn fine-tuned for label"
    text = card.text
    for heading in ("## Metrics", "## Recipe", "## Data", "## Base model and licence", "## Limits", "## Loading"):
        assert heading in text
    assert "![confusion](confusion.png)" in text
    assert "pip install transfer-zoo zoo-starter zoo-basics" in text


def _document(**changes: Any) -> Document:
    path = {"backbone": "starter/cnn", "head": "basics/linear", "features": "pooled", "head_form": "folded"}
    image = REGISTRY.backbone("starter/cnn").spec.input
    columns = (Column(name="label", classes=("a", "b")),)
    values = {**path, "input": image, "columns": columns, "plugins": (), "golden": {}, "version": "0", **changes}
    return Document(**values)


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("cc-by-nc-4.0", {"license": "cc-by-nc-4.0"}),
        (None, {"license": "unknown"}),
        (
            "Own Terms 2",
            {"license": "other", "license_name": "own-terms-2", "license_link": "https://huggingface.co/timm/x"},
        ),
    ],
)
def test_a_licence_is_inherited_as_the_hub_writes_it(licence: str | None, expected: dict[str, str]):
    import yaml

    found = yaml.safe_load(front_matter(_document(license=licence, base={"repo": "timm/x"}, library="timm")))
    assert {k: v for k, v in found.items() if k.startswith("license")} == expected
    assert (found["base_model"], found["base_model_relation"]) == ("timm/x", "finetune")


def test_a_card_of_odd_names_stays_a_card():
    from huggingface_hub import ModelCard

    odd = ("a`b", "---\nlicense: mit", "<script>", "x|y", "émile", "\x1b[31mred")
    document = _document(columns=(Column(name="la:bel\n", classes=odd),), data={"name": "n: [x", "form": "folder"})
    card = ModelCard(render_card(document))
    assert card.data.license == "unknown"
    assert "<script>" not in card.text
    assert "\x1b" not in card.text
    assert plain("a`b") == "a?b"


# ------------------------------------------------------------------ publishing


@pytest.mark.slow
def test_push_takes_the_bundle_as_it_is_or_not_at_all(finished_run: Path, own_bundle: Path, tmp_path: Path):
    hub = tmp_path / "hub"
    pushed = done("push", finished_run, "me/x", "--hub", hub, "--json").json
    assert set(pushed) == {"name", "revision", "url", "files"}
    assert set(pushed["files"]) == FILES
    model = load_file(own_bundle / "model.safetensors")
    save_file({n: v * 1.5 if v.is_floating_point() else v for n, v in model.items()}, own_bundle / "model.safetensors")
    write_manifest(own_bundle)
    refused = zoo("push", own_bundle, "me/x", "--hub", hub)
    assert refused.code == 5
    assert "golden" in refused.err
    assert open_hub(str(hub)).info("me/x").revision == pushed["revision"]


def test_a_dry_push_checks_and_shows_everything_and_publishes_nothing(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    proved: list[Path] = []
    monkeypatch.setattr("zoo.publishing.verify_in_fresh_process", lambda folder, *_: proved.append(folder) or Checked())
    said = done("push", finished_run, "me/x", "--hub", tmp_path / "hub", "--dry-run", "--json").json
    assert set(said["files"]) == FILES
    assert said["dry_run"] is True
    assert proved == [finished_run / "model"]
    assert not (tmp_path / "hub" / "me").exists()


def test_an_interrupted_write_leaves_the_old_bundle_whole(tmp_path: Path):
    made = assembled("linear")
    written(tmp_path / "m", made)
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        written(tmp_path / "m", made, figures={"confusion.png": fail})
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
