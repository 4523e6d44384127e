"""Metrics of multilabel classification."""

from __future__ import annotations

import numpy as np
from zoo_registry import Column

from zoo.evaluation.column_report import ColumnReport
from zoo.evaluation.counts import Counts


def multilabel_report(column: Column, scores: np.ndarray, targets: np.ndarray, threshold: float) -> ColumnReport:
    """Metrics of probabilities ``scores`` [N, C] for ``targets`` [N, C] of 0/1, NaN where a label is missing.

    ``map`` is the mean over classes of :func:`average_precision`; classes without a positive label have none and are
    left out, and it is 0 where that leaves nothing. ``macro_f1`` and ``micro_f1`` count a label as predicted from
    ``threshold`` on; the former is the mean over the classes that occur among labels or predictions.
    """
    present = ~np.isnan(targets)
    positive = present & (targets > 0.5)
    predicted = present & (scores >= threshold)
    counts = Counts(
        hits=(positive & predicted).sum(axis=0), predicted=predicted.sum(axis=0), support=positive.sum(axis=0)
    )
    each = [average_precision(s[p], y[p]) for s, y, p in zip(scores.T, positive.T, present.T, strict=True)]
    known = [value for value in each if value is not None]
    rows = counts.rows(column.classes)
    return ColumnReport(
        metrics={
            "map": float(np.mean(known)) if known else 0.0,
            "macro_f1": counts.macro_f1,
            "micro_f1": counts.micro_f1,
        },
        per_class=[{**row, "average_precision": value} for row, value in zip(rows, each, strict=True)],
        samples=int(present.any(axis=1).sum()),
    )


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """``sum_n (R_n - R_(n-1)) P_n`` over all distinct scores as thresholds, without interpolation.

    Args:
        scores: [N].
        positive: bool [N].

    Returns:
        0..1, or None where nothing is positive.
    """
    if not positive.any():
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # equal scores are one threshold
    precision = hits[ends] / (ends + 1)
    recall = hits[ends] / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())
