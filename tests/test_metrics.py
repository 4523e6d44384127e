from __future__ import annotations

import itertools
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle
from zoo_registry import Column, DataError, ZooError

from zoo.evaluation.calibration import calibrate
from zoo.evaluation.metrics import MAIN_METRIC, evaluate_column


def classes(count: int, kind: str = "classification") -> Column:
    return Column(name="label", kind=kind, classes=tuple(f"c{i}" for i in range(count)))


VALUE = Column(name="age", kind="regression")


def draw_classification(seed: int, count: int, samples: int, dtype=np.float32):
    """Probabilities that know something, and labels of which some classes may not occur."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, count, samples)
    logits = rng.normal(size=(samples, count)) + 1.5 * np.eye(count)[targets]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return scores.astype(dtype), targets


# ---- classification


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 12), samples=st.integers(1, 60))
def test_classification_agrees_with_scikit_learn(seed, count, samples):
    scores, targets = draw_classification(seed, count, samples)
    report = evaluate_column(classes(count), scores, targets)
    predicted, labels = scores.argmax(1), range(count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that do not occur
        expected = {
            "accuracy": oracle.accuracy_score(targets, predicted),
            "macro_f1": oracle.f1_score(targets, predicted, average="macro", zero_division=0),
            "balanced_accuracy": oracle.balanced_accuracy_score(targets, predicted),
            "nll": oracle.log_loss(targets, scores.astype(np.float64), labels=labels),
        }
        each = oracle.precision_recall_fscore_support(targets, predicted, labels=labels, zero_division=0)
    if count > 5:
        expected["top5"] = oracle.top_k_accuracy_score(targets, scores, k=5, labels=labels)
    assert {k: v for k, v in report.metrics.items() if k != "ece"} == pytest.approx(expected, rel=1e-5)
    mine = [[row[k] for row in report.per_class] for k in ("precision", "recall", "f1", "support")]
    np.testing.assert_allclose(mine, each)
    assert [row["label"] for row in report.per_class] == list(classes(count).classes)
    np.testing.assert_array_equal(report.confusion, oracle.confusion_matrix(targets, predicted, labels=labels))
    assert report.samples == samples == report.confusion.sum()


def test_top5_is_given_only_where_it_says_something():
    assert "top5" not in evaluate_column(classes(5), *draw_classification(0, 5, 20)).metrics
    assert "top5" in evaluate_column(classes(6), *draw_classification(0, 6, 20)).metrics


def test_top5_counts_ties_as_argmax_does():
    scores = np.full((8, 8), 0.125, dtype=np.float32)
    report = evaluate_column(classes(8), scores, np.arange(8))
    assert report.metrics["accuracy"] == 1 / 8
    assert report.metrics["top5"] == 5 / 8


def test_samples_without_a_label_count_nowhere():
    scores, targets = draw_classification(3, 4, 40)
    holes = targets.copy()
    holes[::3] = -1
    scores[0] = np.nan  # not even a broken prediction matters there
    some = evaluate_column(classes(4), scores, holes)
    kept = evaluate_column(classes(4), scores[holes >= 0], targets[holes >= 0])
    assert some.metrics == kept.metrics
    assert some.samples == (holes >= 0).sum() < 40


def test_a_perfect_result_is_perfect_though_classes_lack_samples():
    report = evaluate_column(classes(4), np.eye(4)[[0, 2, 2]], np.array([0, 2, 2]))
    expected = {"accuracy": 1, "macro_f1": 1, "balanced_accuracy": 1, "nll": 0, "ece": 0}
    assert report.metrics == pytest.approx(expected, abs=1e-12)
    assert report.per_class[1] == {"label": "c1", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


def test_a_sure_mistake_costs_much_but_stays_finite():
    for dtype in (np.float32, np.float64):
        report = evaluate_column(classes(2), np.array([[1, 0]], dtype=dtype), np.array([1]))
        assert report.metrics["nll"] == pytest.approx(-np.log(np.finfo(dtype).eps))
        assert report.metrics["ece"] == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=50))
def test_calibration_error_is_that_of_its_formula(pairs):
    """Guo et al. written down bin by bin, in plain Python."""
    expected, edges = 0.0, np.linspace(0, 1, 16)
    for low, high in itertools.pairwise(edges):
        inside = [(c, r) for c, r in pairs if low < c <= high or (low == 0 and c == 0)]
        if inside:
            gap = abs(sum(r for _, r in inside) / len(inside) - sum(c for c, _ in inside) / len(inside))
            expected += len(inside) / len(pairs) * gap
    confidence, right = (np.array(x) for x in zip(*pairs, strict=True))
    result = calibrate(confidence.astype(np.float64), right)
    assert result.error == pytest.approx(expected, abs=1e-9)
    assert result.counts.sum() == len(pairs)
    assert result.counts.shape == result.accuracy.shape == (15,)


def test_calibration_error_tells_honest_from_boastful():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 40_000)
    honest = np.stack([confidence, 1 - confidence], 1)
    targets = (rng.uniform(size=40_000) > confidence).astype(int)
    boastful = np.stack([confidence**0.2, 1 - confidence**0.2], 1)
    assert evaluate_column(classes(2), honest, targets).metrics["ece"] < 0.015
    assert evaluate_column(classes(2), boastful, targets).metrics["ece"] > 0.15


# ---- multilabel


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 6), samples=st.integers(1, 40), threshold=st.floats(0.1, 0.9))
def test_multilabel_agrees_with_scikit_learn(seed, count, samples, threshold):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, (samples, count)).astype(np.float32)
    scores = np.round(np.clip(targets * 0.3 + rng.uniform(0, 0.7, targets.shape), 0, 1), 1).astype(np.float32)  # ties
    report = evaluate_column(classes(count, "multilabel"), scores, targets, threshold=threshold)
    predicted = (scores >= threshold).astype(int)
    each = oracle.precision_recall_fscore_support(targets, predicted, average=None, zero_division=0)
    np.testing.assert_allclose(
        [[row[k] for row in report.per_class] for k in ("precision", "recall", "f1", "support")], each
    )
    micro = oracle.f1_score(targets, predicted, average="micro", zero_division=0)
    assert report.metrics["micro_f1"] == pytest.approx(micro)
    occurs = [c for c in range(count) if targets[:, c].any() or predicted[:, c].any()]
    assert report.metrics["macro_f1"] == pytest.approx(np.mean(each[2][occurs]) if occurs else 0)
    known = [c for c in range(count) if targets[:, c].any()]
    precisions = [oracle.average_precision_score(targets[:, c], scores[:, c]) for c in known]
    assert report.metrics["map"] == pytest.approx(np.mean(precisions) if known else 0)
    assert [row["average_precision"] is None for row in report.per_class] == [c not in known for c in range(count)]
    assert report.samples == samples


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_multilabel_masks_missing_labels_one_by_one(seed):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, (20, 3)).astype(np.float32)
    targets[rng.uniform(size=targets.shape) < 0.4] = np.nan
    scores = rng.uniform(size=(20, 3)).astype(np.float32)
    report = evaluate_column(classes(3, "multilabel"), scores, targets)
    assert report.samples == (~np.isnan(targets)).any(1).sum()
    for c, row in enumerate(report.per_class):
        keep = ~np.isnan(targets[:, c])
        y, s = targets[keep, c], scores[keep, c]
        assert row["f1"] == pytest.approx(oracle.f1_score(y, s >= 0.5, zero_division=0) if keep.any() else 0)
        if y.any():
            assert row["average_precision"] == pytest.approx(oracle.average_precision_score(y, s))


# ---- regression


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), samples=st.integers(2, 50), offset=st.sampled_from([0.0, 1e4]))
def test_regression_agrees_with_scikit_learn(seed, samples, offset):
    rng = np.random.default_rng(seed)
    targets = (rng.normal(size=samples) * 10 + offset).astype(np.float32)
    values = (targets + rng.normal(size=samples)).astype(np.float32)
    report = evaluate_column(VALUE, values, targets)
    wide = targets.astype(np.float64), values.astype(np.float64)
    assert report.metrics == pytest.approx(
        {
            "mae": oracle.mean_absolute_error(*wide),
            "rmse": oracle.root_mean_squared_error(*wide),
            "r2": oracle.r2_score(*wide),
        },
        rel=1e-6,
    )
    assert report.samples == samples
    assert report.confusion is None
    assert report.per_class == []


def test_regression_of_equal_targets_and_missing_ones():
    same = np.full(4, 2.0)
    assert evaluate_column(VALUE, same, same).metrics == {"mae": 0, "rmse": 0, "r2": 1}
    assert evaluate_column(VALUE, same + 1, same).metrics == {"mae": 1, "rmse": 1, "r2": 0}
    holes = np.array([1.0, np.nan, 3.0])
    assert evaluate_column(VALUE, np.array([1.0, 99.0, 4.0]), holes).metrics["mae"] == 0.5


# ---- what is accepted, what is refused


def test_tensors_and_half_precision_are_accepted():
    scores, targets = draw_classification(5, 4, 30)
    tensor = torch.tensor(scores, requires_grad=True)
    plain = evaluate_column(classes(4), scores, targets).metrics
    assert evaluate_column(classes(4), tensor, torch.tensor(targets)).metrics == plain
    half = evaluate_column(classes(4), tensor.bfloat16(), torch.tensor(targets, dtype=torch.uint8)).metrics
    assert half["nll"] == pytest.approx(plain["nll"], rel=0.02)


def test_many_classes_do_not_overflow():
    targets = torch.arange(300, dtype=torch.int16)
    report = evaluate_column(classes(300), torch.eye(300).roll(-1, 0), targets)
    assert report.metrics["accuracy"] == 0
    assert report.confusion[299, 0] == 1


def test_order_of_samples_does_not_matter():
    scores, targets = draw_classification(8, 7, 50, np.float64)
    order = np.random.default_rng(0).permutation(50)
    first = evaluate_column(classes(7), scores, targets).metrics
    assert evaluate_column(classes(7), scores[order], targets[order]).metrics == pytest.approx(first)


def test_the_report_is_json_and_has_its_main_metric():
    rng = np.random.default_rng(0)
    many = rng.integers(0, 2, (9, 3)).astype(float)
    many[:, 0] = 0  # a class without positives has no average precision
    reports = {
        "classification": evaluate_column(classes(3), *draw_classification(0, 3, 9)),
        "multilabel": evaluate_column(classes(3, "multilabel"), rng.uniform(size=(9, 3)), many),
        "regression": evaluate_column(VALUE, rng.normal(size=9), rng.normal(size=9)),
    }
    assert set(reports) == set(MAIN_METRIC)
    for kind, report in reports.items():
        assert MAIN_METRIC[kind][0] in report.metrics
        again = json.loads(json.dumps(report.to_json(), allow_nan=False))
        assert again["metrics"] == report.metrics
        assert ("confusion" in again) == (kind == "classification")


@pytest.mark.parametrize(("column", "scores", "targets", "error", "message"), [
    (classes(2), [[0.5, 0.5]], [-1], DataError, "'label' has no label to evaluate against"),
    (VALUE, [1.0], [np.nan], DataError, "'age' has no label to evaluate against"),
    (classes(2), [[0.5, 0.5]], [2], DataError, "label 2 is outside of its 2 classes"),
    (classes(2), [[0.5, np.nan], [1.0, 0.0]], [0, 0], ZooError, "1 of 2 predictions are not finite"),
    (VALUE, [np.inf], [0.0], ZooError, "1 of 1 predictions are not finite"),
    (classes(3), [[0.5, 0.5]], [0], ValueError, "scores \\(1, 2\\)"),
    (classes(2), [[0.5, 0.5]], [0.0], ValueError, "not integers"),
    (VALUE, [[1.0]], [1.0], ValueError, "scores \\(1, 1\\)"),
    (Column(name="mask", kind="segmentation"), [1.0], [1.0], ValueError, "no metrics for the kind 'segmentation'"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused(column, scores, targets, error, message):
    with pytest.raises(error, match=message):
        evaluate_column(column, np.array(scores), np.array(targets))


def test_metrics_import_neither_scikit_learn_nor_torch():
    code = (
        "import sys, zoo.evaluation.metrics, zoo.evaluation.figures\n"
        "heavy = {'torch', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
