"""Metrics of a target column, exact and from all predictions at once: every labelled sample counts once.

numpy alone, so an epoch's validation costs little; the tests hold the numbers against scikit-learn's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from zoo_registry import Column, DataError, ZooError

from zoo.evaluation.classification import classification_report
from zoo.evaluation.column_report import ColumnReport
from zoo.evaluation.multilabel import multilabel_report
from zoo.evaluation.regression import regression_report

__all__ = ["MAIN_METRIC", "ColumnReport", "evaluate_column", "labelled_rows"]

MAIN_METRIC: dict[str, tuple[str, bool]] = {
    "classification": ("accuracy", True),
    "multilabel": ("map", True),
    "regression": ("r2", True),
}
"""Kind of column -> the metric that selects checkpoints, and whether higher is better (so far always, R2 included)."""


def evaluate_column(
    column: Column, scores: Any, targets: Any, *, threshold: float = 0.5, abstains: bool = False
) -> ColumnReport:
    """The report on the predictions for ``column``; samples without a label count nowhere.

    Args:
        column: its kind decides what is measured, see :func:`classification_report`, :func:`multilabel_report`,
            :func:`regression_report`.
        scores: array or CPU tensor as a head decodes it: probabilities [N, C] (a row of zeros abstains), or values [N]
            for regression.
        targets: integer [N], negative where missing; multilabel [N, C] of 0/1, regression [N], NaN where missing.
        threshold: probability from which on a multilabel label counts as predicted.
        abstains: whether the head may abstain, so that it is said how often it did even where it never did.

    Raises:
        DataError: there is no label at all, or one outside of the column's classes.
        ZooError: a prediction for a labelled sample is not finite.
        ValueError: shapes that do not fit, or a kind that is not of :data:`MAIN_METRIC`.
    """
    if column.kind not in MAIN_METRIC:
        raise ValueError(f"column {column.name!r}: no metrics for the kind {column.kind!r}")
    scores, targets = _array(scores), _array(targets)
    _check_shapes(column, scores, targets)
    labelled = labelled_rows(targets)
    scores, targets = scores[labelled], targets[labelled]
    _check_values(column, scores, targets)
    if column.kind == "classification":
        return classification_report(column, scores, targets, abstains=abstains)
    if column.kind == "multilabel":
        return multilabel_report(column, scores, targets, threshold)
    return regression_report(scores, targets)


def labelled_rows(targets: np.ndarray) -> np.ndarray:
    """Which samples have a label, bool [N]: not negative (integers), or at least one that is not NaN."""
    if np.issubdtype(targets.dtype, np.integer):
        return np.asarray(targets >= 0)
    return ~np.isnan(targets) if targets.ndim == 1 else ~np.isnan(targets).all(axis=1)


def _array(values: Any) -> np.ndarray:
    """``values`` as an array; half precision, which numpy lacks or counts badly in, becomes float32."""
    if hasattr(values, "detach"):
        values = values.detach()
        values = values.float() if values.is_floating_point() and values.element_size() < 4 else values
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _check_shapes(column: Column, scores: np.ndarray, targets: np.ndarray) -> None:
    rows = (len(targets),)
    wide = (*rows, column.size)
    expected = {"classification": (wide, rows), "multilabel": (wide, wide), "regression": (rows, rows)}[column.kind]
    if (scores.shape, targets.shape) != expected:
        raise ValueError(f"column {column.name!r}: scores {scores.shape} and targets {targets.shape}, not {expected}")
    if column.kind == "classification" and not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(f"column {column.name!r}: targets are {targets.dtype}, not integers")


def _check_values(column: Column, scores: np.ndarray, targets: np.ndarray) -> None:
    if not len(targets):
        raise DataError(f"column {column.name!r} has no label to evaluate against", hint="evaluate on labelled data")
    if column.kind == "classification" and targets.max() >= column.size:
        raise DataError(f"column {column.name!r}: label {targets.max()} is outside of its {column.size} classes")
    broken = int((~np.isfinite(scores)).reshape(len(scores), -1).any(axis=1).sum())
    if broken:
        raise ZooError(
            f"column {column.name!r}: {broken} of {len(scores)} predictions are not finite",
            hint="the model has broken weights: a lower --lr, or an earlier checkpoint",
        )
