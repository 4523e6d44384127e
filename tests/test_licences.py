"""Licences: what is carried, what is said aloud, when somebody has to decide."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from zoo_registry import Column, ConflictError, Registry, UsageError, Weights
from zoo_runs import assembled, done, written, zoo

from zoo.bundle.card import front_matter
from zoo.bundle.document import DOCUMENT, Document, read_document
from zoo.bundle.licences import (
    COPYLEFT,
    LICENCES,
    NON_COMMERCIAL,
    OWN_TERMS,
    PERMISSIVE,
    aloud,
    base_licence,
    licence_id,
    licence_kind,
    settle,
    stated_licence,
)
from zoo.bundle.write import write_manifest
from zoo.cards import check_licence
from zoo.files import write_json
from zoo.finetuning import licence_lines
from zoo.hub.files import MANIFEST

REGISTRY = Registry()
HUB = {"kind": "hub", "repo": "timm/x", "file": "model.safetensors", "revision": "a" * 40, "sha256": "b" * 64}


def document(**changes: Any) -> Document:
    names = {"backbone": "timm/x", "head": "basics/linear", "features": "pooled", "head_form": "folded"}
    image = REGISTRY.backbone("starter/cnn").spec.input
    columns = (Column(name="label", classes=("a", "b")),)
    values = {**names, "input": image, "columns": columns, "plugins": (), "golden": {}, "version": "0", "base": HUB}
    return Document(**{**values, **changes})


def test_every_licence_is_of_one_kind():
    groups = [PERMISSIVE, COPYLEFT, OWN_TERMS, NON_COMMERCIAL, {"unknown"}]
    assert sum(map(len, groups)) == len(LICENCES)
    for name in LICENCES:
        assert name == licence_id(name)
    assert {licence_kind(n) for n in NON_COMMERCIAL} == {"non-commercial"}
    assert {licence_kind(n) for n in PERMISSIVE} == {"permissive"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Apache-2.0", "permissive"),
        ("CC BY NC 4.0", "non-commercial"),
        ("cc-by-nc-sa-4.0", "non-commercial"),
        ("acme-noncommercial-1", "non-commercial"),
        ("cc-by-4.0", "permissive"),
        ("lgpl-3.0", "copyleft"),
        ("dinov3-license", "own terms"),
        ("sync-license", "own terms"),
        (None, "unknown"),
        ("", "unknown"),
    ],
)
def test_what_a_licence_allows(name: str | None, kind: str):
    assert licence_kind(name) == kind


def test_the_catalogue_of_timm_names_what_forbids_commercial_use():
    weights = [e.spec.weights for e in REGISTRY.entries("backbone") if e.namespace == "timm" and e.spec.weights]
    kinds: dict[str, set[str]] = {}
    for found in weights:
        kinds.setdefault(licence_kind(found.license), set()).add(str(found.license))
    assert {"cc-by-nc-4.0", "fair-noncommercial-research-license", "apple-amlr"} <= kinds["non-commercial"]
    assert {"apache-2.0", "mit", "bsd-3-clause"} <= kinds["permissive"]
    assert "dinov3-license" in kinds["own terms"]
    assert kinds["unknown"] == {"None"}
    nc = {e.name for e in REGISTRY.entries("backbone") if e.spec.weights and "nc" in str(e.spec.weights.license)}
    assert "timm/convnextv2_atto.fcmae_ft_in1k" in nc


def test_the_licence_is_that_of_the_weights_that_were_really_loaded():
    weights = Weights(repo="timm/x", file="model.safetensors", license="mit", license_source="a catalogue")
    assert base_licence(weights, HUB) == ("mit", "a catalogue")
    assert base_licence(weights, {**HUB, "repo": "me/other"}) == (None, None)
    assert base_licence(weights, {"kind": "file", "sha256": "0" * 64}) == (None, None)
    assert base_licence(weights, {**HUB, "repo": "me/o", "license": "gpl-3.0"}) == ("gpl-3.0", None)
    assert base_licence(weights, None) == (None, None)
    assert base_licence(None, HUB) == (None, None)


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        ("apache-2.0", None),
        ("gpl-3.0", None),
        ("cc-by-nc-4.0", "forbids commercial use, and what is fine-tuned from it inherits that"),
        ("dinov3-license", "terms of its own"),
        (None, "unknown"),
    ],
)
def test_what_is_not_free_is_said_aloud(licence: str | None, said: str | None):
    line = aloud(licence, "timm/x")
    assert (line is None) if said is None else (line is not None and said in line and "timm/x" in line)
    assert settle(document(license=licence)).lines == ((line,) if line else ())


def test_fine_tuning_says_it_too():
    spec = SimpleNamespace(weights=Weights(repo="timm/x", file="model.safetensors", license="cc-by-nc-4.0"))
    made: Any = SimpleNamespace(backbone=SimpleNamespace(spec=spec, name="timm/x"), weights=HUB)
    assert "forbids commercial use" in licence_lines(made)[0]
    made.weights = None  # random ones
    assert licence_lines(made) == []


def test_known_ones_are_carried_and_unknown_is_unknown():
    assert settle(document(license="CC-BY-4.0")).name == "cc-by-4.0"
    unknown = settle(document(license=None))
    assert (unknown.name, unknown.conflict) == ("unknown", None)
    scratch = settle(document(license=None, base=None))
    assert scratch.name == "unknown"
    assert "--license" in scratch.lines[0]


def test_a_stated_licence_decides_and_what_it_departs_from_stays_told():
    nc = document(license="cc-by-nc-4.0", license_source="timm", license_stated="mit")
    found = settle(nc)
    assert (found.name, found.conflict) == ("mit", None)
    assert "be sure that you may" in found.lines[0]
    assert "cc-by-nc-4.0" in found.why
    assert settle(document(license=None, base=None, license_stated="mit")).lines == ()
    assert settle(document(license="mit", license_stated="mit")).lines == ()


def test_a_teacher_under_stricter_terms_is_a_conflict():
    teachers = {"me/big": {"sha256": "0" * 64, "license": "cc-by-nc-4.0"}}
    taught = document(license="apache-2.0", recipe={"teachers": teachers})
    found = settle(taught)
    assert found.name == "unknown"
    assert "me/big" in str(found.conflict)
    with pytest.raises(ConflictError, match=r"cc-by-nc-4\.0"):
        found.require("run")
    assert settle(dataclasses.replace(taught, license_stated="cc-by-nc-4.0")).conflict is None
    mild = {"me/big": {"license": "mit"}, "me/odd": {}}
    assert settle(document(license="apache-2.0", recipe={"teachers": mild})).name == "apache-2.0"


@pytest.mark.parametrize(
    ("given", "name"), [("MIT", "mit"), ("cc-by-nc-4.0", "cc-by-nc-4.0"), ("other:Acme 1", "acme-1")]
)
def test_what_can_be_stated(given: str, name: str):
    assert stated_licence(given) == name


@pytest.mark.parametrize("given", ["apache2", "other", "", "other:", "other:mit", "my own"])
def test_a_licence_that_the_hub_does_not_know_is_refused(given: str):
    with pytest.raises(UsageError) as caught:
        stated_licence(given)
    assert caught.value.hint
    assert given != "apache2" or "apache-2.0" in caught.value.hint


def test_terms_of_their_own_are_written_as_the_hub_wants_them():
    def metadata(**changes: Any) -> dict[str, Any]:
        found = yaml.safe_load(front_matter(document(**changes)))
        return {name: value for name, value in found.items() if name.startswith("license")}

    own = {"license": "other", "license_name": "dinov3-license", "license_link": "https://huggingface.co/timm/x"}
    assert metadata(license="dinov3-license") == own
    assert metadata(license="mit", license_stated="acme-1") == {"license": "other", "license_name": "acme-1"}
    assert metadata(license=None) == {"license": "unknown"}


# ------------------------------------------------------------------ a bundle on the disk


@pytest.fixture
def restricted(tmp_path: Path) -> Path:
    """A bundle whose base weights forbid commercial use."""
    folder = tmp_path / "bundle"
    written(folder, assembled("linear"), metrics={"val": {"accuracy": 0.5}})
    return licensed(folder, license="cc-by-nc-4.0", license_source="timm's pretrained_cfg", base=HUB)


def licensed(folder: Path, **changes: Any) -> Path:
    found = dataclasses.replace(read_document(folder / DOCUMENT, where="here"), **changes)
    write_json(folder / DOCUMENT, found.to_json())
    (folder / MANIFEST).unlink()
    write_manifest(folder)
    return folder


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fresh process: that has tests of its own."""
    from zoo.bundle.verify import Checked

    monkeypatch.setattr("zoo.publishing.verify_in_fresh_process", lambda *_, **__: Checked())


@pytest.mark.usefixtures("unproved")
def test_push_says_what_the_licence_forbids_and_carries_it(restricted: Path, tmp_path: Path):
    pushed = done("push", restricted, "me/x", "--hub", tmp_path / "hub")
    assert "licence: cc-by-nc-4.0 of starter/cnn forbids commercial use" in pushed.err
    told = done("pull", "me/x", "--hub", tmp_path / "hub", "--json").json
    card = (Path(told["path"]) / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in card
    assert "**It forbids commercial use.**" in card
    assert "`cc-by-nc-4.0` (source: timm's pretrained_cfg)" in card


@pytest.mark.usefixtures("unproved")
def test_a_licence_written_into_the_card_by_hand_needs_a_decision(restricted: Path, tmp_path: Path):
    done("card", restricted)
    card = restricted / "README.md"
    card.write_text(card.read_text().replace("license: cc-by-nc-4.0", "license: mit"))
    refused = zoo("push", restricted, "me/x", "--hub", tmp_path / "hub")
    assert refused.code == 6
    assert "README" not in refused.err.split("hint:")[0] or "mit" in refused.err
    assert "--license" in refused.err
    assert not (tmp_path / "hub" / "me").exists()
    told = done("push", restricted, "me/x", "--hub", tmp_path / "hub", "--license", "mit", "--dry-run", "--json")
    assert told.json["license"] == "mit"
    assert "be sure that you may" in told.err
    assert "license: mit" in told.json["card"]


@pytest.mark.usefixtures("unproved")
def test_where_nothing_is_known_a_licence_in_the_card_is_taken_as_stated(tmp_path: Path):
    folder = tmp_path / "bundle"
    written(folder, assembled("linear"))
    assert check_licence(folder).name == "unknown"
    card = folder / "README.md"
    card.write_text(card.read_text().replace("license: unknown", "license: cc-by-4.0"))
    assert done("push", folder, "me/x", "--hub", tmp_path / "hub", "--dry-run", "--json").json["license"] == "cc-by-4.0"
    done("push", folder, "me/x", "--hub", tmp_path / "hub")
    told = done("pull", "me/x", "--hub", tmp_path / "hub", "--json").json
    assert read_document(Path(told["path"]) / DOCUMENT, where="x").license_stated == "cc-by-4.0"


def test_a_card_edited_after_a_licence_was_stated_needs_a_decision_too(restricted: Path):
    done("card", restricted, "--license", "cc-by-nc-sa-4.0")
    card = restricted / "README.md"
    card.write_text(card.read_text().replace("license: cc-by-nc-sa-4.0", "license: mit"))
    with pytest.raises(ConflictError, match=r"mit, and cc-by-nc-sa-4\.0 was stated before"):
        check_licence(restricted)
    assert check_licence(restricted, "mit").name == "mit"
    told = done("card", restricted)
    assert "--license ID says which one holds" in told.err
    assert "license: unknown" in card.read_text()
    done("card", restricted, "--license", "mit")
    assert "license: mit" in card.read_text()


def test_a_typo_is_found_before_anything_is_done(restricted: Path, tmp_path: Path):
    refused = zoo("push", restricted, "me/x", "--hub", tmp_path / "hub", "--license", "apache2")
    assert refused.code == 2
    assert "apache-2.0" in refused.err
