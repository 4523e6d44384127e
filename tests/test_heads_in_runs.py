"""Heads through the whole application: abstaining, keeping samples, measuring themselves, several kinds of columns."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
import tiny_zoo
import torch
from hub_fixtures import write_manifest
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, f1_score, log_loss
from tiny_runs import Halt, HaltingReporter, outcome, same_bits
from zoo_registry import Column, DataError, IntegrityError, Registry, UsageError
from zoo_runs import CLASSES, done, picture, zoo

from zoo.bundle.read import load_bundle, verify_bundle
from zoo.data import open_data
from zoo.evaluation.metrics import evaluate_column
from zoo.evaluation.predictions import Predictions, predict_features, predict_split
from zoo.evaluation.report import main_score, report_columns
from zoo.prediction import PredictedFile
from zoo.recipe.resolve import default_head

LABEL = Column(name="label", classes=("a", "b", "c"))


# ---- samples that are not predicted


def abstained(samples: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with rows of zeros, targets, and which rows are answered."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, samples)
    logits = rng.normal(size=(samples, 3)) + 1.5 * np.eye(3)[targets]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    answered = rng.uniform(size=samples) < 0.7
    return np.where(answered[:, None], scores, 0.0), targets, answered


def test_an_abstained_sample_is_an_error_and_no_prediction_of_any_class():
    scores, targets, answered = abstained()
    report = evaluate_column(LABEL, scores, targets)
    predicted = np.where(answered, scores.argmax(1), 3)  # 3 is no class
    m = report.metrics
    assert m["accuracy"] == pytest.approx(accuracy_score(targets, predicted))
    assert m["coverage"] == pytest.approx(answered.mean())
    assert m["selective_accuracy"] == pytest.approx(accuracy_score(targets[answered], predicted[answered]))
    assert m["macro_f1"] == pytest.approx(f1_score(targets, predicted, labels=[0, 1, 2], average="macro"))
    uniform = np.where(answered[:, None], scores, 1 / 3)
    assert m["nll"] == pytest.approx(log_loss(targets, uniform))
    assert report.confusion.sum() == answered.sum()
    assert report.calibration.counts.sum() == answered.sum()
    assert m["ece"] == pytest.approx(evaluate_column(LABEL, scores[answered], targets[answered]).metrics["ece"])
    assert report.abstained == report.to_json()["abstained"] == (~answered).sum()
    assert [row["support"] for row in report.per_class] == np.bincount(targets).tolist()
    recall = [(predicted[targets == c] == c).mean() for c in range(3)]
    assert [row["recall"] for row in report.per_class] == pytest.approx(recall)
    assert m["balanced_accuracy"] == pytest.approx(np.mean(recall))


def test_nothing_answered_is_nothing_right():
    report = evaluate_column(Column(name="x", classes=tuple("abcdefg")), np.zeros((5, 7)), np.zeros(5, int))
    m = report.metrics
    assert (m["accuracy"], m["coverage"], m["selective_accuracy"], m["top5"], m["macro_f1"]) == (0, 0, 0, 0, 0)
    assert m["nll"] == pytest.approx(np.log(7))
    assert all(np.isfinite(value) for value in m.values())


def test_a_head_that_could_abstain_says_that_it_did_not():
    scores, targets, answered = abstained()
    plain = evaluate_column(LABEL, scores[answered], targets[answered])
    assert "coverage" not in plain.metrics
    able = evaluate_column(LABEL, scores[answered], targets[answered], abstains=True)
    assert able.metrics == {**plain.metrics, "coverage": 1.0, "selective_accuracy": plain.metrics["accuracy"]}


def test_rows_of_zero_are_told_from_unreadable_files():
    assert PredictedFile(file="a", column="x").abstains
    assert not PredictedFile(file="a", column="x", error="broken").abstains
    assert not PredictedFile(file="a", column="x", value=0.0).abstains
    assert not PredictedFile(file="a", column="x", labels=()).abstains


@pytest.fixture(scope="module")
def knn_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A k-NN head on photographs of which a drawn one lies close and a plain surface far."""
    out = tmp_path_factory.mktemp("knn") / "run"
    asked = ("--backbone", "starter/cnn", "--head", "knn", "--set", "head.k=3", "--set", "head.quantile=1")
    done("finetune", photos, *asked, "--out", out)
    Image.fromarray(picture("rings", 77)).save(out.parent / "near.png")
    Image.new("RGB", (48, 48), (128, 128, 128)).save(out.parent / "far.png")
    return out


def test_predict_says_where_the_model_abstains(knn_run: Path):
    near, far = (str(knn_run.parent / f"{name}.png") for name in ("near", "far"))
    rows = done("predict", knn_run, near, far, "--json", "--top", 2).json
    assert rows[0]["label"] == "rings"
    assert rows[1] == {"file": far, "column": "label", "label": None, "score": None, "top": []}
    assert done("predict", knn_run, far).out.split("\t")[2:] == ["abstains", "\n"]
    table = list(csv.DictReader(io.StringIO(done("predict", knn_run, near, far, "--csv", "--top", 2).out)))
    assert [row["label"] for row in table] == ["rings", "abstains"]
    assert [(row["score"] == "", row["label_2"] == "", row["error"]) for row in table][1] == (True, True, "")


def test_a_run_that_abstains_says_how_often_and_what_it_publishes(knn_run: Path, photos: Path):
    measured = done("evaluate", knn_run, photos, "--split", "train", "--json").json
    assert measured["metrics"]["coverage"] == 1.0
    assert measured["metrics"]["selective_accuracy"] == measured["metrics"]["accuracy"] > 0.9
    assert "features of 24 training samples" in (knn_run / "model" / "README.md").read_text()


def test_a_bundle_with_samples_in_it_comes_back_and_a_wrong_one_is_refused(knn_run: Path, tmp_path: Path):
    assert verify_bundle(knn_run / "model", Registry()) < 1e-4
    loaded = load_bundle(knn_run / "model", Registry())
    assert loaded.model.head.features.shape == (24, 192)
    good = load_file(knn_run / "model" / "head.safetensors")
    for broken in (
        {"features": good["features"][:, :100].contiguous()},
        {"features": good["features"].flatten()},
        {"labels": good["labels"][:9].contiguous()},
        {"labels": good["labels"] + 1},
        {"radius": torch.ones(7)},
        {"spare": torch.ones(1)},
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for path in (knn_run / "model").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        save_file({**good, **broken}, folder / "head.safetensors")
        write_manifest(folder)
        with pytest.raises(IntegrityError):
            load_bundle(folder, Registry())


# ---- killed and resumed, published and loaded


def request(head: str, strategy: str, **more):
    asked = tiny_runs.request(None, strategy)
    return dataclasses.replace(asked, head=f"basics/{head}", settings=(*asked.settings, *more.pop("settings", ())))


@pytest.mark.parametrize("head", ["ridge", "knn", "ordinal", "multi-task"])
@pytest.mark.slow
def test_a_run_that_stopped_goes_on_to_the_same_bits(head, tmp_path):
    fitted = head in ("ridge", "knn")
    asked = request(head, "fit,whole:2" if fitted else "freeze:1,whole:1")
    whole = tmp_path / "whole"
    tiny_runs.start(whole, asked)
    with pytest.raises(Halt):
        tiny_runs.start(tmp_path / "run", asked, reporter=HaltingReporter(6))
    tiny_runs.resume(tmp_path / "run", asked)
    assert outcome(tmp_path / "run") == outcome(whole)


@pytest.mark.parametrize("backbone", ["starter/vit", "starter/cnn"])
def test_attention_pools_tokens_of_a_transformer_and_maps_of_a_network(backbone, photos, tmp_path):
    asked = ("--backbone", backbone, "--head", "attention", "--strategy", "linear:2", "--set", "head.queries=2")
    done("finetune", photos, *asked, "--out", tmp_path / "run")
    document = json.loads((tmp_path / "run" / "model" / "zoo.json").read_text())
    assert document["backbone"]["features"] == ("tokens" if backbone == "starter/vit" else "map")
    assert document["head"]["form"] == "module"
    assert verify_bundle(tmp_path / "run" / "model", Registry()) < 1e-4


def test_ridge_publishes_as_a_plain_classifier(photos, tmp_path):
    done("finetune", photos, "--backbone", "starter/cnn", "--head", "ridge", "--out", tmp_path / "run")
    document = json.loads((tmp_path / "run" / "model" / "zoo.json").read_text())
    assert document["head"]["form"] == "folded"
    assert document["recipe"]["phase"][0]["strategies"][0]["name"] == "basics/fit"
    import timm

    plain = timm.create_model(f"local-dir:{tmp_path / 'run' / 'model'}", pretrained=True).eval()
    loaded = load_bundle(tmp_path / "run" / "model", Registry())
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(plain(x), loaded.model.predict(x)["label"], atol=1e-4, rtol=1e-4)


# ---- metrics of a head's own


def test_what_a_head_measures_itself_stands_in_every_evaluation(tmp_path):
    registry = tiny_zoo.registry()
    asked = request("ordinal", "freeze:1", settings=("head.order=class2,class0,class1",))
    result = tiny_runs.start(tmp_path / "run", asked)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    loaded = load_bundle(tmp_path / "run" / "model", registry)
    loaded.model.backbone.load_state_dict(load_file(tmp_path / "run" / "model" / "model.safetensors"))
    split = open_data(tiny_zoo.drawn_splits()).split("test")
    from zoo.training.pipeline import Pipeline

    found = predict_split(loaded.model, split, Pipeline(loaded.model.backbone, loaded.input, torch.device("cpu")))
    ranks = np.array([1, 2, 0])
    expected = np.abs(ranks[found.scores["label"].argmax(1)] - ranks[split.targets["label"].numpy()])
    np.testing.assert_array_equal(found.measured["label"]["rank_mae"], expected)
    assert result.metrics["rank_mae"] == pytest.approx(expected.mean())
    assert 0 <= rows[0]["val"]["rank_mae"] <= 2
    assert next(iter(result.metrics)) == "accuracy"
    halves = {
        size: predict_features(loaded.model, split, *features_of(loaded, split), batch_size=size) for size in (5, 12)
    }
    assert halves[5].measured["label"]["rank_mae"].tolist() == expected.tolist()
    assert same_bits(*({"x": torch.tensor(halves[size].scores["label"])} for size in halves)) or np.allclose(
        halves[5].scores["label"], halves[12].scores["label"], atol=1e-6
    )


def features_of(loaded, split):
    from zoo.training.pipeline import Pipeline

    pipeline = Pipeline(loaded.model.backbone, loaded.input, torch.device("cpu"))
    found = predict_split(loaded.model, split, pipeline, features_only=True)
    return found.features, found.indices


# ---- several columns


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with a class, a number and tags of drawn photographs; a third of the cells is empty."""
    folder = tmp_path_factory.mktemp("mixed")
    rows = [["image", "kind", "light", "tags"]]
    for number in range(36):
        image = picture(CLASSES[number % 3], number, 32)
        Image.fromarray(image).save(folder / f"{number}.png")
        tags = [name for name, place in (("red", 0), ("blue", 2)) if image[..., place].mean() > 125]
        cells = [CLASSES[number % 3], f"{image.mean() + 0.001:.3f}", ";".join(tags) or ";"]
        empty = number % 4
        rows.append([f"{number}.png", *("" if place == empty else cell for place, cell in enumerate(cells))])
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "table.csv"


@pytest.mark.slow
def test_columns_of_several_kinds_train_with_one_head(mixed: Path, tmp_path: Path):
    columns = [part for name in ("kind", "light", "tags") for part in ("--label-column", name)]
    asked = ("--backbone", "starter/cnn", "--strategy", "linear:8", "--lr", "0.01", "--batch-size", 8)
    outcome_ = done("finetune", mixed, *columns, *asked, "--out", tmp_path / "run")
    assert "kind.accuracy" in outcome_.out + outcome_.err
    assert "light.mae" in outcome_.out + outcome_.err
    document = json.loads((tmp_path / "run" / "model" / "zoo.json").read_text())
    assert document["head"] == {"name": "basics/multi-task", "options": document["head"]["options"], "form": "module"}
    state = load_file(tmp_path / "run" / "model" / "head.safetensors")
    assert all(float(state[f"raw.{place}"]) != 0 for place in range(3))
    measured = done("evaluate", tmp_path / "run", mixed, "--split", "train", "--json").json
    samples = {name: report["samples"] for name, report in measured["columns"].items()}
    assert all(15 < count < measured["samples"] for count in samples.values())
    assert measured["metrics"]["kind.accuracy"] > 0.8
    assert verify_bundle(tmp_path / "run" / "model", Registry()) < 1e-4
    rows = done("predict", tmp_path / "run", mixed.parent / "1.png", "--json").json
    assert [sorted(row) for row in rows] == [
        ["column", "file", "label", "score", "top"],
        ["column", "file", "value"],
        ["column", "file", "labels", "top"],
    ]


def test_the_default_head_serves_all_columns():
    kinds = {kind: Column(name=kind, kind=kind, classes=() if kind == "regression" else ("a", "b"))
             for kind in ("classification", "multilabel", "regression")}  # fmt: skip
    alone = {kind: default_head((column,)) for kind, column in kinds.items()}
    assert alone == {"classification": "linear", "multilabel": "multilabel", "regression": "regression"}
    assert default_head((kinds["multilabel"], kinds["multilabel"])) == "multilabel"
    assert default_head((kinds["classification"], kinds["regression"])) == "multi-task"
    registry = Registry()
    assert set(registry.head("multi-task").spec.tasks) == set(kinds)


def test_a_head_of_one_kind_is_refused_with_the_way_out(mixed: Path, tmp_path: Path):
    columns = ("--label-column", "kind", "--label-column", "light")
    refused = zoo("finetune", mixed, *columns, "--backbone", "starter/cnn", "--head", "linear", "--out", tmp_path / "r")
    assert refused.code == UsageError.exit_code
    assert "the data has light (regression)" in refused.err
    assert "leave --head out" in refused.err


def test_words_without_an_order_are_refused_before_training(mixed: Path, tmp_path: Path):
    asked = ("--label-column", "kind", "--backbone", "starter/cnn", "--head", "ordinal", "--out", tmp_path / "run")
    refused = zoo("finetune", mixed, *asked)
    assert refused.code == UsageError.exit_code
    assert "cannot tell the order of the classes 'checks', 'rings', 'stripes'" in refused.err
    assert not (tmp_path / "run").exists()


def column_split(columns: tuple[Column, ...], **targets: np.ndarray):
    from zoo.data.dataset import Split

    count = len(next(iter(targets.values())))
    return Split(
        name="val", ids=list(map(str, range(count))), sources=[None] * count, sizes=[0] * count, columns=columns,
        encoded=targets,
    )  # fmt: skip


def test_a_column_without_a_label_in_a_split_has_no_metrics_there():
    columns = (Column(name="a", classes=("x", "y")), Column(name="b", kind="regression"))
    scores = {"a": np.eye(2)[[0, 1]], "b": np.array([1.0, 2.0])}
    gone = np.full(2, np.nan)
    split = column_split(columns, a=np.array([0, 1]), b=gone)
    report = report_columns(columns, Predictions([0, 1], scores), split)
    assert {name.partition(".")[0] for name in report.metrics} == {"a"}
    assert report.columns["b"].samples == 0
    assert main_score(columns, report.metrics) == 1.0
    json.dumps(report.to_json())
    with pytest.raises(DataError, match="no label in any column"):
        report_columns(columns, Predictions([0, 1], scores), column_split(columns, a=np.array([-1, -1]), b=gone))
    with pytest.raises(DataError, match="'a' has no label"):
        report_columns(columns[:1], Predictions([0, 1], scores), column_split(columns, a=np.array([-1, -1])))
