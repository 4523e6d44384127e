"""The Python API: the same words as the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset as TorchDataset
from zoo_registry import ConflictError, DataError, UnknownNameError, UsageError
from zoo_runs import CLASSES, picture

import zoo
from zoo.bundle.verify import Checked
from zoo.recipe import read_recipe


class Drawn(TorchDataset):
    """A map-style torch dataset of (PIL image, integer label)."""

    classes = CLASSES

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int):
        from PIL import Image

        return Image.fromarray(picture(CLASSES[index % 3], index, 40)), index % 3


def test_every_public_name_is_there_and_importing_costs_no_torch():
    assert all(callable(getattr(zoo, name)) for name in zoo.__all__ if not name.startswith("_"))
    with pytest.raises(AttributeError, match="nonesuch"):
        zoo.nonesuch  # noqa: B018


def test_names_are_listed_in_full_and_by_pattern():
    assert "starter/cnn" in zoo.list_backbones()
    assert zoo.list_backbones("starter/*") == zoo.list_backbones("starter/")
    assert zoo.list_heads("linear") == ["basics/linear"]
    assert {"basics/linear", "basics/full"} <= set(zoo.list_strategies())


def test_a_torch_dataset_becomes_a_published_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("zoo.publishing.verify_in_fresh_process", lambda *_: Checked())  # a test of its own has it
    data = {"train": Drawn(), "val": Drawn()}
    run = zoo.finetune(data, backbone="starter/cnn", strategy="linear:2", batch_size=8, lr=0.01, out=tmp_path / "run")
    assert run.split == "val"
    assert run.metrics["accuracy"] > 0.5
    assert [phase.rate for phase in run.recipe.phases] == [0.01]
    model = zoo.load(run.run)
    assert model.document.columns[0].classes == CLASSES
    report = zoo.evaluate(model, data, split="val")
    assert report.samples == 24
    assert report.metrics == pytest.approx(run.metrics)
    from PIL import Image

    Image.fromarray(picture("rings", 77, 40)).save(tmp_path / "x.png")
    rows = zoo.predict(model, [tmp_path / "x.png"], top=2)
    assert (rows[0].label, rows[0].score) == rows[0].top[0]
    assert zoo.predict(run.model, [tmp_path / "x.png"])[0].label == rows[0].label
    pushed = zoo.push(run.run, "me/drawn", hub=str(tmp_path / "hub"))
    pulled = zoo.pull(f"me/drawn@{pushed.revision[:8]}", hub=str(tmp_path / "hub"))
    assert pulled.revision == pushed.revision
    again = zoo.load("me/drawn", hub=str(tmp_path / "hub"))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again.model.predict(images)["label"], model.model.predict(images)["label"])


def test_a_model_is_assembled_and_predicts():
    made = zoo.assemble("starter/cnn", head="mlp", classes=("a", "b"), head_options={"hidden": 8}, device="cpu")
    assert made.report is not None
    assert made.report.loaded > 0
    assert made.report.initialised == ()
    assert made.model.predict(torch.zeros(1, 3, 64, 64))["label"].shape == (1, 2)
    assert any("loaded from" in line for line in made.summary())
    assert any("newly initialised" in line for line in made.summary())
    random = zoo.assemble("starter/cnn", classes=("a", "b"), pretrained=False, device="cpu")
    assert any("random" in line for line in random.summary())


def test_an_unfinished_run_is_resumed_and_a_finished_one_is_not(finished_run: Path, tmp_path: Path):
    with pytest.raises(ConflictError, match="finished"):
        zoo.finetune(resume=True, out=finished_run)
    with pytest.raises(UsageError, match="run folder"):
        zoo.finetune(resume=True)
    (tmp_path / "x").write_text("")
    with pytest.raises(ConflictError, match="not empty"):
        zoo.finetune("digits:", backbone="starter/cnn", out=tmp_path)


def test_errors_are_of_the_tree_and_name_the_thing(photos: Path, finished_run: Path, tmp_path: Path):
    with pytest.raises(UnknownNameError, match="starter/cn"):
        zoo.finetune(photos, backbone="starter/cn", out=tmp_path / "run")
    with pytest.raises(UsageError, match=r"train\.lr"):
        zoo.finetune(photos, backbone="starter/cnn", lr=0, out=tmp_path / "run")
    with pytest.raises(DataError, match="'0'"):
        zoo.evaluate(finished_run, "digits:")
    assert not (tmp_path / "run").exists()


def test_what_is_said_beside_a_recipe_goes_before_it(finished_run: Path, tmp_path: Path):
    recipe = read_recipe(finished_run / "recipe.toml")
    run = zoo.finetune(recipe=recipe, strategy="linear:1", seed=4, out=tmp_path / "run")
    assert (run.recipe.seed, run.recipe.label()) == (4, "linear:1")
    assert run.recipe.train.batch_size == 16  # the recipe's
