"""Whether a classifier that says 80 % is right in 80 of 100 cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Samples binned by confidence, the largest probability, in bins ``((m - 1) / M, m / M]`` of equal width.

    Attributes:
        counts: [M] samples in each bin.
        confidence: [M] mean confidence of each bin, 0 where it is empty.
        accuracy: [M] share of right predictions in each bin, 0 where it is empty.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error, ``sum_m n_m / N |accuracy_m - confidence_m|``, 0..1, lower is better.

        Naeini et al., AAAI 2015; with the 15 bins of Guo et al., On Calibration of Modern Neural Networks, ICML 2017
        (arXiv 1706.04599).
        """
        gaps = np.abs(self.accuracy - self.confidence)
        return float((self.counts * gaps).sum() / max(self.counts.sum(), 1))

    def to_json(self) -> dict[str, list[float]]:
        """Plain lists, a value per bin."""
        return {
            "counts": self.counts.tolist(),
            "confidence": self.confidence.tolist(),
            "accuracy": self.accuracy.tolist(),
        }


def calibrate(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Calibration:
    """The calibration of predictions with ``confidence`` [N] in 0..1, of which ``right`` [N] (bool) are right."""
    edges = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    index = np.digitize(confidence, edges, right=True)
    counts = np.bincount(index, minlength=bins)
    safe = np.maximum(counts, 1)
    return Calibration(
        counts=counts,
        confidence=np.bincount(index, weights=confidence, minlength=bins) / safe,
        accuracy=np.bincount(index, weights=right, minlength=bins) / safe,
    )
