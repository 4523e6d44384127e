"""What a push proves: logits and metrics in a fresh process; what it cannot prove is called so, number by number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hub_fixtures import contents
from zoo_registry import IntegrityError
from zoo_runs import done, draw_photos, edit_bundle, zoo

from zoo.bundle import proof
from zoo.bundle.document import read_document
from zoo.bundle.proof import Proof, differing, is_proved, proof_lines, read_proof
from zoo.bundle.staging import staged
from zoo.bundle.verify import Checked, work
from zoo.hub.files import verify_folder
from zoo.hub.folder import FolderHub
from zoo.publishing import proof_of, run_of


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Photographs of this module's own, and a run on them."""
    root = tmp_path_factory.mktemp("proof")
    photos = draw_photos(root / "photos")
    asked = ("--backbone", "starter/cnn", "--strategy", "linear:1", "--batch-size", 16)
    done("finetune", photos, *asked, "--out", root / "run")
    return photos, root / "run"


@pytest.fixture
def run(own_run: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the run, to spoil; its data is where it was."""
    return Path(shutil.copytree(own_run[1], tmp_path / "run"))


def found(run: Path, **order: Any) -> Checked:
    """What the fresh process would find; it runs here."""
    answer = work({"path": str(run / "model"), "hub": None, "run": str(run), **order}, lambda event: None)
    return Checked(**answer)


def test_a_push_measures_again_and_says_so_in_the_card(run: Path, tmp_path: Path):
    hub, before = tmp_path / "hub", contents(run / "model")
    said = done("push", run, "me/x", "--hub", hub, "--json")
    assert "measured val again: 6 samples, the same metrics" in said.err
    published = FolderHub(hub).pull("me/x").path
    document = read_document(published / "zoo.json", where="it")
    assert document.metrics["val"]
    assert all(is_proved(document, "val", name) for name in document.metrics["val"])
    assert "- val: proved." in (published / "README.md").read_text()
    verify_folder(published, "it")
    assert contents(run / "model") == before  # the run's own bundle stays as it was
    assert not [path.name for path in run.iterdir() if path.name.startswith(".push")]
    again = done("push", run, "me/x", "--hub", hub, "--json").json
    assert again["revision"] == said.json["revision"]  # proved again, and the same again


def test_numbers_that_nobody_measured_again_are_called_not_proved(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("zoo.publishing.verify_in_fresh_process", lambda *_: Checked(why=proof.NO_RUN))
    planned = done("push", run, "me/x", "--hub", tmp_path / "hub", "--dry-run", "--no-metrics")
    assert "- val: not proved (they were not measured again)." in planned.out
    shutil.copytree(run / "model", tmp_path / "lonely")
    planned = done("push", tmp_path / "lonely", "me/x", "--hub", tmp_path / "hub", "--dry-run")
    assert "- val: not proved (the run is not at hand)." in planned.out


def test_the_fresh_process_finds_the_metrics(run: Path):
    recorded = json.loads((run / "model" / "zoo.json").read_text())["metrics"]
    checked = found(run)
    assert checked.why is None
    assert {split: set(metrics) for split, metrics in checked.metrics.items()} == {
        split: set(metrics) for split, metrics in recorded.items()
    }
    for split, metrics in recorded.items():
        assert checked.metrics[split] == pytest.approx(metrics, abs=1e-5)


def test_metrics_that_are_not_found_again_stop_a_push(run: Path, tmp_path: Path):
    value = json.loads((run / "model" / "zoo.json").read_text())["metrics"]["val"]["nll"]
    edit_bundle(run / "model", metrics__val__nll=value + 1)
    with pytest.raises(IntegrityError, match=r"measures nll [\d.]+ on val, recorded is") as caught:
        found(run)
    assert "--no-metrics" in str(caught.value.hint)


@pytest.mark.slow
def test_a_push_that_is_not_proved_publishes_nothing(run: Path, tmp_path: Path):
    value = json.loads((run / "model" / "zoo.json").read_text())["metrics"]["val"]["nll"]
    edit_bundle(run / "model", metrics__val__nll=value + 1)
    refused = zoo("push", run, "me/x", "--hub", tmp_path / "hub")
    assert refused.code == 5
    assert "measures nll" in refused.err
    assert not (tmp_path / "hub" / "me").exists()


def recipe_with(run: Path, source: str | None) -> None:
    """Let the run's recipe name other data."""
    import tomllib

    import tomli_w

    values = tomllib.loads((run / "recipe.toml").read_text())
    values["data"].pop("source")
    values["data"] |= {"source": source} if source is not None else {}
    (run / "recipe.toml").write_text(tomli_w.dumps(values))


@pytest.mark.parametrize("what", ["gone", "changed", "never named"])
def test_data_that_is_not_what_it_was_is_a_reason_and_no_error(own_run, run: Path, tmp_path: Path, what: str):
    moved = tmp_path / "photos"
    if what == "changed":
        shutil.copytree(own_run[0], moved)
        (moved / "rings" / "0.jpg").unlink()
    recipe_with(run, None if what == "never named" else str(moved))
    why = {"gone": proof.NOT_THERE, "changed": proof.CHANGED, "never named": proof.NO_NAME}[what]
    assert found(run) == Checked(difference=found(run).difference, metrics={}, why=why)


def test_the_same_data_elsewhere_proves_as_well(own_run, run: Path, tmp_path: Path):
    shutil.copytree(own_run[0], tmp_path / "elsewhere")
    recipe_with(run, str(tmp_path / "elsewhere"))
    assert found(run).why is None


def test_each_number_has_its_own_word(run: Path):
    document = read_document(run / "model" / "zoo.json", where="it")
    assert proof_lines(document)[0] == f"- val: not proved ({proof.NOT_NOW})."
    half = Checked(metrics={"val": {"accuracy": 1.0}}, why=None)
    told = proof_of(run / "model", half, True)
    assert told == Proof(metrics={"val": ("accuracy",)}, why=proof.NO_SPLIT)
    assert proof_of(run / "model", half, False).why == proof.NOT_ASKED
    assert run_of(run / "model") == run
    assert run_of(run) is None


@pytest.mark.parametrize(
    ("recorded", "again", "samples", "equal"),
    [
        (0.9, 0.9, 1000, True),
        (0.9, 0.9015, 10_000, True),
        (0.9, 0.91, 10_000, False),
        (0.9, 0.91, 100, True),  # one sample of a hundred
        (0.9, 0.92, 100, False),
        (120.0, 120.2, 10_000, True),
        (120.0, 121.0, 10_000, False),
        (0.5, float("nan"), 10, False),
    ],
)
def test_what_counts_as_the_same_number(recorded: float, again: float, samples: int, equal: bool):
    assert differing({"m": recorded}, {"m": again}, samples) == ([] if equal else ["m"])


@pytest.mark.parametrize(
    "value", [{}, [], {"logits": 1, "metrics": {}}, {"logits": True, "metrics": {"val": "accuracy"}},
              {"logits": True, "metrics": {}, "why": "because <b>I</b> say so"}]
)  # fmt: skip
def test_a_proof_that_is_none_is_refused(value: Any):
    with pytest.raises(IntegrityError, match="proof"):
        read_proof(value, IntegrityError)


def test_a_staged_folder_changes_nothing_of_the_bundle(run: Path):
    bundle = run / "model"
    before = contents(bundle)
    with staged(bundle, before, {"README.md": b"# other\n"}, near=run) as folder:
        assert folder.parent == run
        assert (folder / "model.safetensors").stat().st_nlink > 1  # not copied
        assert (folder / "README.md").read_bytes() == b"# other\n"
        verify_folder(folder, "it")
    assert contents(bundle) == before
    assert not folder.exists()
