"""Metrics of single-label classification."""

from __future__ import annotations

import numpy as np
from zoo_registry import Column

from zoo.evaluation.calibration import calibrate
from zoo.evaluation.column_report import ColumnReport
from zoo.evaluation.counts import Counts

TOP = 5
"""Top-k accuracy is given for this k where there are more classes."""


def classification_report(
    column: Column, scores: np.ndarray, targets: np.ndarray, *, abstains: bool = False
) -> ColumnReport:
    """Metrics of probabilities ``scores`` [N, C] for true classes ``targets`` [N], all present.

    The predicted class has the largest score, the first one of equals. ``accuracy``; ``top5`` where there are more than
    5 classes; ``macro_f1`` over the classes that occur among labels or predictions; ``balanced_accuracy``, the mean
    recall of the classes that have samples; ``nll = mean(-log p_true)`` with probabilities raised to the type's
    epsilon, as scikit-learn does; ``ece``, see :attr:`zoo.evaluation.calibration.Calibration.error`.

    A row of zeros abstains: it is an error in accuracy, F1 and recall, and no prediction of any class (the confusion
    matrix leaves it out); in ``nll`` it counts as equal probabilities, in ``ece`` not at all. Where there is such a
    row, or ``abstains`` says that the head could have given one, ``coverage`` is the share of samples that were
    predicted and ``selective_accuracy`` the accuracy among them, 0 where there are none.
    """
    classes = scores.shape[1]
    answered = (scores != 0).any(axis=1)
    confusion = confusion_matrix(targets[answered], scores[answered].argmax(axis=1), classes)
    support = np.bincount(targets, minlength=classes)
    counts = Counts(hits=np.diag(confusion), predicted=confusion.sum(axis=0), support=support)
    true = np.where(answered[:, None], np.take_along_axis(scores, targets[:, None], axis=1), 1 / classes)
    rank = np.where(answered, rank_of_true(scores, targets, true), classes)
    calibration = calibrate(scores[answered].max(axis=1).astype(np.float64), rank[answered] == 0)
    metrics = {"accuracy": float((rank == 0).mean())}
    if abstains or not answered.all():
        metrics["coverage"] = float(answered.mean())
        metrics["selective_accuracy"] = float((rank == 0).sum() / max(1, answered.sum()))
    if classes > TOP:
        metrics[f"top{TOP}"] = float((rank < TOP).mean())
    metrics["macro_f1"] = counts.macro_f1
    metrics["balanced_accuracy"] = float(counts.recall[counts.support > 0].mean())
    metrics["nll"] = float(-np.log(np.maximum(true, np.finfo(true.dtype).eps)).mean(dtype=np.float64))
    metrics["ece"] = calibration.error
    return ColumnReport(
        metrics=metrics,
        per_class=counts.rows(column.classes),
        confusion=confusion,
        samples=len(targets),
        abstained=int((~answered).sum()),
        calibration=calibration,
    )


def confusion_matrix(targets: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """[C, C] counts; rows are true classes, columns predicted ones."""
    return np.bincount(targets.astype(np.int64) * classes + predicted, minlength=classes**2).reshape(classes, classes)


def rank_of_true(scores: np.ndarray, targets: np.ndarray, true: np.ndarray) -> np.ndarray:
    """How many classes stand before the true one, [N]; of equal scores the first class stands first, as in argmax."""
    before = np.arange(scores.shape[1]) < targets[:, None]
    return np.asarray(((scores > true) | ((scores == true) & before)).sum(axis=1))
