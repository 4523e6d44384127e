"""The result of evaluating one target column."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zoo.evaluation.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class ColumnReport:
    """What is known of the predictions for one column.

    Attributes:
        metrics: name -> value, always finite, see :mod:`zoo.evaluation.metrics`.
        per_class: a row per class in the order of the label map; empty for regression.
        confusion: [C, C] counts of what was predicted, rows are true classes, columns predicted ones; None but for
            classification.
        samples: number of samples with a label; the others count nowhere.
        abstained: how many of these the head did not predict.
        calibration: confidence against accuracy; None but for classification.
    """

    metrics: dict[str, float]
    per_class: list[dict[str, Any]] = field(default_factory=list)
    confusion: np.ndarray | None = None
    samples: int = 0
    abstained: int = 0
    calibration: Calibration | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; what does not apply is left out."""
        row: dict[str, Any] = {"metrics": self.metrics, "samples": self.samples}
        if self.per_class:
            row["per_class"] = self.per_class
        if self.abstained:
            row["abstained"] = self.abstained
        if self.confusion is not None:
            row["confusion"] = self.confusion.tolist()
        if self.calibration is not None:
            row["calibration"] = self.calibration.to_json()
        return row
