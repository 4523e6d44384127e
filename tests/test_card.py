"""The card: read as a person and as the Hub reads it, kept where a person wrote, true of what was measured."""

from __future__ import annotations

import dataclasses
import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from zoo_registry import Column, DataError, IntegrityError, Registry
from zoo_runs import assembled, done, draw_photos, edit_bundle, written, zoo

from zoo.bundle.card import BEGIN, END, bundle_card, check_card, read_kept, render_card
from zoo.bundle.card.words import wilson
from zoo.bundle.document import DOCUMENT, Document, read_document
from zoo.bundle.measured import Comparison
from zoo.cards import render
from zoo.hub.files import verify_folder
from zoo.telling import figure_name, public_name

REGISTRY = Registry()


def document(**changes: Any) -> Document:
    names = {"backbone": "starter/cnn", "head": "basics/linear", "features": "pooled", "head_form": "folded"}
    image = REGISTRY.backbone("starter/cnn").spec.input
    columns = (Column(name="label", classes=("a", "b")),)
    values = {**names, "input": image, "columns": columns, "plugins": (), "golden": {}, "version": "0", **changes}
    return Document(**values)


def metadata(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text.split("---")[1]))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of random weights, written in a moment."""
    findings = {"metrics": {"val": {"accuracy": 0.75, "macro_f1": 0.7}}, "samples": {"val": {"label": 40}}}
    data = {"form": "folder", "name": "photos", "fingerprint": "f" * 64, "splits": {"train": 9, "val": 40}}
    written(tmp_path / "bundle", assembled("linear"), **findings, data=data, notes=("A line on the <run>.",))
    return tmp_path / "bundle"


# ------------------------------------------------------------------ what it says


def test_a_card_of_a_real_run_says_what_a_reader_asks_for(finished_run: Path):
    text = (finished_run / "model" / "README.md").read_text()
    found = read_document(finished_run / "model" / DOCUMENT, where="here")
    count = found.samples["val"]["label"]
    value = found.metrics["val"]["accuracy"]
    low, high = wilson(value, count)
    assert f"| accuracy on val | {value:.3f} ({low:.3f} to {high:.3f}, the 95 % interval of {count} samples) |" in text
    assert "| output | `label`: one of 3 classes, `checks`, `rings`, `stripes` |" in text
    assert "| input | images of 64 x 64 px, 3 channels |" in text
    assert "`linear:2,full:1` from pretrained weights on 24 samples" in text
    assert "| licence | `apache-2.0` |" in text
    assert "There was no test split" in text
    assert "Whether the pretrained weights helped was not measured." in text
    assert "Fine-tuned from `starter/cnn`" in text
    assert "`photos`, a folder of class folders." in text
    order = [text.index(f"## {part}") for part in ("Loading", "Metrics", "Limits", "Data", "Recipe", "Base model")]
    assert order == sorted(order)


def test_the_interval_is_wilsons():
    from statistics import NormalDist

    for share, count in ((0.95, 539), (0.0, 12), (1.0, 7)):
        low, high = wilson(share, count)
        z = NormalDist().inv_cdf(0.975)
        for bound in {low, high} - {0.0, 1.0}:  # each bound is the p whose z-test of the share is just rejected
            if 1e-9 < bound < 1 - 1e-9:
                assert abs(share - bound) / (bound * (1 - bound) / count) ** 0.5 == pytest.approx(z, rel=1e-3)


def test_notes_and_names_cannot_break_out_of_the_card(bundle: Path):
    text = (bundle / "README.md").read_text()
    assert "A line on the ?run?." in text
    odd = ("a`b", "<!-- yours ends here -->", "x|y", "---", "\x1b[31m")
    made = render_card(
        document(columns=(Column(name="la|bel\n<b>", classes=odd),), license="mit", base={"repo": "t/x"})
    )
    kept = read_kept(made)
    assert (kept.hand, kept.elsewhere) == ("", False)
    assert made.count(BEGIN) == made.count(END) == 1
    assert "\x1b" not in made
    assert metadata(made)["license"] == "mit"


def test_columns_of_several_kinds_are_told_and_read_back_apart():
    columns = (Column(name="kind", classes=("a", "b")), Column(name="age in years", kind="regression"))
    values = {"kind.accuracy": 0.9, "kind.ece": 0.02, "age in years.r2": 0.5, "age in years.mae": 3.25}
    text = render_card(document(columns=columns, metrics={"test": values}, samples={"test": {"kind": 10}}))
    check_card(text, "here")
    assert "| `kind`, accuracy on test | 0.900" in text
    assert "| `age in years`, r2 on test | 0.500 |" in text
    assert "### `age in years`\n\n| metric | test | |\n|---|---|---|\n| r2 | 0.5000 |" in text
    assert "mean absolute error; lower is better" in text
    _, found = model_index_to_eval_results(metadata(text)["model-index"])
    rows = {(r.dataset_config, r.metric_type): (r.task_type, r.metric_value) for r in found}
    assert rows == {
        ("kind", "accuracy"): ("image-classification", 0.9),
        ("kind", "ece"): ("image-classification", 0.02),
        ("age in years", "r2"): ("image-regression", 0.5),
        ("age in years", "mae"): ("image-regression", 3.25),
    }


def test_the_hub_takes_the_metadata_and_gives_the_results_back(bundle: Path, loopback):
    server = loopback()
    text = (bundle / "README.md").read_text()
    body = json.dumps({"repoType": "model", "content": text}).encode()
    with urllib.request.urlopen(f"{server.url}/api/validate-yaml", data=body) as answer:
        assert json.load(answer) == {"errors": [], "warnings": []}
    card = ModelCard(text, ignore_metadata_errors=False)
    found = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert found == {("val", "accuracy"): 0.75, ("val", "macro_f1"): 0.7}
    assert card.data.model_name == "cnn fine-tuned for label"
    assert {"zoo", "transfer-learning", "image-classification"} <= set(card.data.tags)


@pytest.mark.parametrize(
    ("front", "reason"),
    [
        ("tags: [zoo", "cannot read"),
        ("- a\n- b", "cannot read|no YAML mapping"),
        ("license: apache2", "apache2"),
        ("license: other", "license_name"),
        ("license: mit\nmodel-index: 3", "model-index|cannot read"),
        ("license: mit\nmodel-index:\n- name: x", "model-index|cannot read"),
    ],
)
def test_what_the_hub_would_refuse_is_found_here(front: str, reason: str):
    with pytest.raises(DataError, match=reason):
        check_card(f"---\n{front}\n---\n# x\n", "here")


# ------------------------------------------------------------------ what a person wrote


def test_a_hand_written_section_survives(bundle: Path):
    card = bundle / "README.md"
    mine = "## Intended use\n\nFor *letters*, with `code`, a table | and <b>HTML</b>.\n\n---\nand a line."
    card.write_text(card.read_text().replace(BEGIN, f"{BEGIN}\n{mine}\n"))
    edited = edit_bundle(bundle, metrics={"val": {"accuracy": 0.5}})  # something to render anew
    done("card", edited)
    text = card.read_text()
    assert f"{BEGIN}\n\n{mine}\n\n{END}" in text
    assert "0.5000" in text
    verify_folder(bundle, "bundle")
    assert done("card", edited).out.splitlines()[0].endswith("as it should be")
    assert card.read_text() == text
    windows = text.replace("\n", "\r\n")
    assert read_kept(windows).hand == mine
    assert not read_kept(windows).elsewhere


def test_metadata_of_a_persons_own_survives(bundle: Path):
    card = bundle / "README.md"
    text = card.read_text().replace("tags:\n", "language: en\ndatasets:\n- me/photos\ntags:\n- letters\n")
    card.write_text(text)
    done("card", bundle)
    found = metadata(card.read_text())
    assert (found["language"], found["datasets"]) == ("en", ["me/photos"])
    assert {"letters", "zoo"} <= set(found["tags"])
    assert found["model-index"]
    mine = {"task": {"type": "image-classification"}, "dataset": {"name": "beans", "type": "beans"}}
    found["model-index"][0]["results"].append({**mine, "metrics": [{"type": "accuracy", "value": 0.25}]})
    found |= {"self": 1, "7": 2}
    card.write_text(f"---\n{yaml.safe_dump(found)}---\n" + card.read_text().split("---\n", 2)[2])
    edit_bundle(bundle, metrics={"val": {"accuracy": 0.5}})
    done("card", bundle)
    again = metadata(card.read_text())["model-index"][0]["results"]
    assert [(r["dataset"]["name"], r["metrics"][0]["value"]) for r in again] == [("photos", 0.5), ("beans", 0.25)]


def test_text_elsewhere_is_never_lost_unasked(bundle: Path, tmp_path: Path):
    card = bundle / "README.md"
    card.write_text(card.read_text().replace("# cnn fine-tuned", "# My own title, cnn fine-tuned"))
    edit_bundle(bundle, metrics={"val": {"accuracy": 0.5}})
    told = done("card", bundle)
    assert "edited outside" in told.err
    assert "# My own title" in card.read_text()
    assert metadata(card.read_text())["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5
    (tmp_path / "about.md").write_text("About.")
    refused = zoo("card", bundle, "--notes", tmp_path / "about.md")
    assert refused.code == 6
    assert "--force" in refused.err
    done("card", bundle, "--notes", tmp_path / "about.md", "--force")
    assert "My own title" not in card.read_text()
    assert read_kept(card.read_text()).hand == "About."
    verify_folder(bundle, "bundle")


def test_a_card_that_is_gone_is_written_again(bundle: Path):
    (bundle / "README.md").unlink()
    refused = zoo("card", bundle)
    assert refused.code == 5  # it stands in the manifest
    assert "README.md" in refused.err


def test_print_writes_nothing(bundle: Path):
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    shown = done("card", bundle, "--print", "--license", "mit")
    assert "license: mit" in shown.out
    said = done("card", bundle, "--print", "--license", "mit", "--json").json
    assert (said["license"], said["changed"], said["metadata"]["license"]) == ("mit", True, "mit")
    assert said["text"].startswith("---\n")
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_what_a_terminal_would_obey_is_not_printed(bundle: Path):
    card = bundle / "README.md"
    card.write_text(card.read_text().replace(BEGIN, f"{BEGIN}\n\x1b]0;title\x07 and\ttext\n"))
    shown = done("card", bundle, "--print").out
    assert "\x1b" not in shown
    assert "?]0;title? and\ttext" in shown


def test_a_stated_licence_stays_with_the_bundle(bundle: Path):
    done("card", bundle, "--license", "cc-by-4.0")
    assert read_document(bundle / DOCUMENT, where="here").license_stated == "cc-by-4.0"
    verify_folder(bundle, "bundle")
    done("card", bundle)
    assert metadata((bundle / "README.md").read_text())["license"] == "cc-by-4.0"


def test_an_interrupted_rendering_leaves_the_bundle_whole(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    import zoo.cards

    rendered = render(bundle, license="mit")
    write, calls = zoo.cards.write_bytes, 0

    def failing(path: Path, content: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(zoo.cards, "write_bytes", failing)
    for number, card in ((1, render(bundle, hand="x")), (2, render(bundle, hand="y")), (1, rendered), (3, rendered)):
        stop, calls = number, 0
        with pytest.raises(OSError, match="No space"):
            zoo.cards.renew(bundle, card)
        verify_folder(bundle, "bundle")
        assert read_document(bundle / DOCUMENT, where="here").license_stated is None
        assert [path.name for path in bundle.parent.iterdir() if path.name.startswith(".bundle")] == []


@pytest.mark.parametrize("wrong", [["--notes", "nowhere.md"], ["--against", "nowhere"]])
def test_wrong_turns_are_one_line(bundle: Path, wrong: list[str]):
    outcome = zoo("card", bundle, *wrong)
    assert outcome.code == 2
    assert "nowhere" in outcome.lines("error:")[0]


def test_a_damaged_bundle_gets_no_card(bundle: Path):
    weights = bundle / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    refused = zoo("card", bundle)
    assert refused.code == 5
    assert "model.safetensors" in refused.err


# ------------------------------------------------------------------ published


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fresh process: that has tests of its own."""
    from zoo.bundle.verify import Checked

    monkeypatch.setattr("zoo.publishing.verify_in_fresh_process", lambda *_, **__: Checked())


@pytest.mark.usefixtures("unproved")
def test_a_pushed_card_names_the_repo_and_keeps_what_was_written(bundle: Path, tmp_path: Path):
    card = bundle / "README.md"
    card.write_text(card.read_text().replace(BEGIN, f"{BEGIN}\nMine.\n"))
    before = card.read_bytes()
    first = done("push", bundle, "me/letters", "--hub", tmp_path / "hub", "--json").json
    assert card.read_bytes() == before
    pulled = Path(done("pull", "me/letters", "--hub", tmp_path / "hub", "--json").json["path"])
    text = (pulled / "README.md").read_text()
    assert 'zoo.load("me/letters")' in text
    assert "hf-hub:me/letters" in text
    assert "owner/name" not in text
    assert "Mine." in text
    assert str(tmp_path) not in text
    rows = json.loads((pulled / "manifest.json").read_text())["files"]
    assert rows["README.md"]["size"] == len(text.encode())
    again = zoo("push", bundle, "me/letters", "--hub", tmp_path / "hub")
    assert f"already published me/letters at {first['revision'][:12]}" in again.out


@pytest.mark.usefixtures("unproved")
def test_a_dry_push_shows_files_sizes_card_licence_and_target(bundle: Path, tmp_path: Path):
    hub = tmp_path / "hub"
    shown = done("push", bundle, "me/letters", "--hub", hub, "--public", "--dry-run").out
    assert f"would publish me/letters on {hub}" in shown
    assert "public: everybody can read it" in shown
    assert re.search(r"[\d.]+[kM]B  model.safetensors", shown)
    assert re.search(r"[\d.]+[kM]B  in 5 files", shown)
    assert 'zoo.load("me/letters")' in shown
    said = done("push", bundle, "me/letters", "--hub", hub, "--dry-run", "--json").json
    assert (said["private"], said["license"], said["dry_run"]) == (True, "unknown", True)
    assert said["card"].startswith("---\n")
    assert not (hub / "me").exists()


# ------------------------------------------------------------------ the transfer gain


def recorded(bundle: Path, **changes: Any) -> Path:
    """The bundle with a ``zoo.json`` as of a run on data."""
    recipe = {"seed": 0, "data": {"val_fraction": 0.2}, "phase": [{"steps": 150, "strategies": [{"name": "b/full"}]}]}
    return edit_bundle(bundle, **{"recipe": recipe, **changes})


@pytest.fixture
def scratch(bundle: Path, tmp_path: Path) -> Path:
    """A bundle of a run from scratch on the same data, less accurate."""
    data = read_document(bundle / DOCUMENT, where="here").data
    written(tmp_path / "scratch", assembled("linear"), metrics={"val": {"accuracy": 0.5}}, data=data)
    recorded(bundle)
    return recorded(tmp_path / "scratch")


def test_the_gain_over_scratch_is_told_where_it_was_measured(bundle: Path, scratch: Path):
    done("card", bundle, "--against", scratch)
    text = (bundle / "README.md").read_text()
    assert "| transfer gain | +0.250 accuracy |" in text
    assert "| `starter/cnn` from random weights, `full:150s`, seed 0 | 0.5000 | +0.2500 |" in text
    assert "| this model | 0.7500 | |" in text
    assert "helped was not measured" not in text
    assert len(read_document(bundle / DOCUMENT, where="here").comparisons) == 1
    done("card", bundle, "--against", scratch)  # once is enough
    assert len(read_document(bundle / DOCUMENT, where="here").comparisons) == 1
    verify_folder(bundle, "bundle")


def test_a_gain_that_is_a_loss_is_told_as_one(bundle: Path, scratch: Path):
    recorded(scratch, metrics={"val": {"accuracy": 0.8}})
    done("card", bundle, "--against", scratch)
    assert "| transfer gain | -0.050 accuracy |" in (bundle / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data__fingerprint": "e" * 64}, "other data"),
        ({"data__splits__train": 90}, "other samples"),
        ({"recipe__seed": 1}, "seed"),
        ({"recipe__data__val_fraction": 0.5}, "data"),
        ({"metrics": {"test": {"accuracy": 0.5}}}, "no metrics on val"),
        ({"columns__0__classes__0": "z"}, "classes"),
    ],
)
def test_only_runs_on_the_same_samples_are_compared(bundle: Path, scratch: Path, change: dict[str, Any], reason: str):
    edit_bundle(scratch, **change)
    refused = zoo("card", bundle, "--against", scratch)
    assert refused.code == 2
    assert reason in refused.err


@pytest.mark.parametrize(
    "value",
    [3, [3], [{"start": "random"}], [{}] * 50, "x", {"a": 1}],
)
def test_comparisons_are_read_strictly(bundle: Path, value: Any):
    path = bundle / DOCUMENT
    path.write_text(json.dumps({**json.loads(path.read_text()), "comparisons": value}))
    with pytest.raises(IntegrityError, match="comparison"):
        read_document(path, where="here")


def test_what_is_compared_survives_writing_and_reading(bundle: Path):
    row = Comparison(backbone="a/b", recipe="full:1", start="random", seed=3, split="val", metrics={"accuracy": 0.1})
    found = dataclasses.replace(read_document(bundle / DOCUMENT, where="here"), comparisons=(row,))
    (bundle / DOCUMENT).write_text(json.dumps(found.to_json()))
    assert read_document(bundle / DOCUMENT, where="here") == found
    assert "+0.6500" in bundle_card(bundle, found)


# ------------------------------------------------------------------ data, without its place


def test_the_name_of_the_data_tells_neither_who_nor_where(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("getpass.getuser", lambda: "Zwieback")
    monkeypatch.setattr("platform.node", lambda: "knusper42.lan.example")
    assert public_name("/home/zwieback/photos", "folder") == "photos"
    assert public_name("C:\\Users\\x\\photos\\", "folder") == "photos"
    for told in ("zwieback", "zwieback-photos", "Knusper42", "knusper42.lan.example"):
        assert public_name(told, "folder") == "folder"


def test_no_place_or_name_of_this_machine_is_in_any_file_of_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = tmp_path / "zwieback"
    monkeypatch.setattr("getpass.getuser", lambda: "zwieback")
    monkeypatch.setattr("platform.node", lambda: "knusper42")
    data = draw_photos(home / "secretplace" / "zwieback photos", each=5, size=24)
    asked = ("--backbone", "starter/cnn", "--strategy", "linear:1", "--set", "train.workers=0")
    done("finetune", data, *asked, "--out", home / "run")
    canaries = [b"zwieback", b"knusper42", b"secretplace", str(tmp_path).encode()]
    for path in (home / "run" / "model").rglob("*"):
        content = path.read_bytes().lower() if path.is_file() else b""
        assert [word for word in canaries if word.lower() in content] == [], path.name
    assert "A folder of class folders." in (home / "run" / "model" / "README.md").read_text()


# ------------------------------------------------------------------ figures


def test_figures_have_names_that_a_link_can_hold():
    columns = tuple(Column(name=n, classes=("a", "b")) for n in ("kind", "the age (years)", "the/age-years", "a/../b"))
    names = [figure_name(c, columns) for c in columns]
    assert names == [
        "confusion_kind.png",
        "confusion_the-age-years-2.png",
        "confusion_the-age-years-3.png",
        "confusion_a-b.png",
    ]
    assert all(re.fullmatch(r"confusion_[\w.-]+\.png", name) for name in names)
    assert len(set(names)) == 4
    assert figure_name(columns[0], columns[:1]) == "confusion.png"


def test_the_card_shows_the_confusion_that_was_measured(finished_run: Path):
    from PIL import Image

    model = finished_run / "model"
    assert "![confusion](confusion.png)" in (model / "README.md").read_text()
    pixels = np.asarray(Image.open(model / "confusion.png").convert("RGB"))
    assert min(pixels.shape[:2]) > 250
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
