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
from hub_fixtures import flip, write_manifest
from safetensors.torch import load_file, save_file
from zoo_registry import Column, IntegrityError, PluginError, Registry, ZooError
from zoo_runs import CLASSES, done, edit_bundle, zoo

from zoo.assembly.assemble import Assembled, assemble_model
from zoo.bundle.card import front_matter, plain, render_card
from zoo.bundle.document import Document, read_document
from zoo.bundle.golden import check_golden, golden_inputs
from zoo.bundle.read import load_bundle, verify_bundle
from zoo.bundle.verify import verify_in_fresh_process
from zoo.bundle.write import Findings, write_bundle
from zoo.hub import open_hub
from zoo.recipe import Component, Recipe, parse_strategy

REGISTRY = Registry()
FILES = {"README.md", "config.json", "confusion.png", "manifest.json", "model.safetensors", "zoo.json"}


def assembled(
    head: str, kind: str = "classification", classes: tuple[str, ...] = ("a", "b", "c"), **options: Any
) -> Assembled:
    """A random small model with weights that are far from zero, so that folding errors show."""
    columns = (Column(name="label", kind=kind, classes=classes),)
    made = assemble_model(
        REGISTRY, backbone="starter/cnn", head=head, columns=columns, pretrained=False, head_options=options
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in [*made.model.head.parameters(), *made.model.head.buffers()]:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    return made


def written(folder: Path, made: Assembled, **findings: Any) -> Document:
    """The model's bundle in ``folder``."""
    names = (Component(name=made.backbone.name), Component(name=made.head.name))
    recipe = Recipe(backbone=names[0], head=names[1], phases=parse_strategy("basics/linear:1"), pretrained=False)
    return write_bundle(folder, made, recipe, Findings(**findings), REGISTRY)


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
    assert verify_in_fresh_process(finished_run / "model") < 1e-4


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
        ("Own Terms 2", {"license": "other", "license_name": "own-terms-2"}),
    ],
)
def test_a_licence_is_inherited_as_the_hub_writes_it(licence: str | None, expected: dict[str, str]):
    import yaml

    found = yaml.safe_load(front_matter(_document(license=licence, base={"repo": "timm/x"}), "timm"))
    assert {k: v for k, v in found.items() if k.startswith("license")} == expected
    assert (found["base_model"], found["base_model_relation"]) == ("timm/x", "finetune")


def test_a_card_of_odd_names_stays_a_card():
    from huggingface_hub import ModelCard

    odd = ("a`b", "---\nlicense: mit", "<script>", "x|y", "émile", "\x1b[31mred")
    document = _document(columns=(Column(name="la:bel\n", classes=odd),), data={"name": "n: [x", "form": "folder"})
    card = ModelCard(render_card(document, library="timm"))
    assert card.data.license == "unknown"
    assert "<script>" not in card.text
    assert "\x1b" not in card.text
    assert plain("a`b") == "a?b"


# ------------------------------------------------------------------ hostile bundles


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
        ("drop", "missing"),
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
    for path in (finished_run / "model").iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert load_bundle(tmp_path, REGISTRY).document.columns[0].classes == CLASSES


# ------------------------------------------------------------------ publishing


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
    monkeypatch.setattr("zoo.publishing.verify_in_fresh_process", proved.append)
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
