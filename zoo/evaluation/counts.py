"""Precision, recall and F1 from counts. Where nothing can be counted the value is 0, as scikit-learn's default."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above / below``, 0 where ``below`` is 0."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below > 0))


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts per class, each [C]: ``hits`` (true positives), ``predicted`` (all predicted), ``support`` (all true)."""

    hits: np.ndarray
    predicted: np.ndarray
    support: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """``hits / predicted``, 0 for a class that was never predicted."""
        return ratio(self.hits, self.predicted)

    @property
    def recall(self) -> np.ndarray:
        """``hits / support``, 0 for a class without samples."""
        return ratio(self.hits, self.support)

    @property
    def f1(self) -> np.ndarray:
        """``2 hits / (predicted + support)``, the harmonic mean of precision and recall."""
        return ratio(2 * self.hits, self.predicted + self.support)

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that occur among labels or predictions, so that a perfect result is always 1."""
        occurs = (self.predicted + self.support) > 0
        return float(self.f1[occurs].mean()) if occurs.any() else 0.0

    @property
    def micro_f1(self) -> float:
        """F1 of the counts added up over the classes."""
        return float(ratio(2 * self.hits.sum(), (self.predicted + self.support).sum()))

    def rows(self, classes: tuple[str, ...]) -> list[dict[str, float | int | str | None]]:
        """``{label, precision, recall, f1, support}`` for each class."""
        values = zip(classes, self.precision, self.recall, self.f1, self.support, strict=True)
        return [
            {"label": label, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
            for label, p, r, f, n in values
        ]
