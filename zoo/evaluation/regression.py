"""Metrics of regression."""

from __future__ import annotations

import numpy as np

from zoo.evaluation.column_report import ColumnReport


def regression_report(values: np.ndarray, targets: np.ndarray) -> ColumnReport:
    """Metrics of predicted ``values`` [N] for ``targets`` [N], all present, in their unit.

    ``mae = mean |y - t|``; ``rmse = sqrt mean (y - t)^2``; ``r2 = 1 - sum (y - t)^2 / sum (t - mean t)^2``. Where all
    targets are equal ``r2`` is 1 for a perfect prediction, else 0, as scikit-learn's.
    """
    error = values.astype(np.float64) - targets.astype(np.float64)
    residual = float(np.square(error).sum())
    total = float(np.square(targets - targets.mean(dtype=np.float64), dtype=np.float64).sum())
    perfect = 1.0 if residual == 0 else 0.0
    return ColumnReport(
        metrics={
            "mae": float(np.abs(error).mean()),
            "rmse": float(np.sqrt(np.square(error).mean())),
            "r2": 1.0 - residual / total if total > 0 else perfect,
        },
        samples=len(targets),
    )
