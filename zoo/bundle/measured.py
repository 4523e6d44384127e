"""What ``zoo.json`` tells of measuring beside the metrics: labels counted, and other runs on the same data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zoo_registry import IntegrityError

Wrong = Callable[[str], IntegrityError]
MOST_COMPARISONS = 20


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Another run on the same data, split by split the same samples: what the transfer gain is measured against.

    Attributes:
        backbone: full name.
        recipe: its strategies, as on the command line.
        start: ``random`` (from scratch) or ``pretrained``.
        seed: of the run.
        split: the split of the metrics.
        metrics: its metrics there.
    """

    backbone: str
    recipe: str
    start: str
    seed: int
    split: str
    metrics: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def read_comparisons(value: Any, wrong: Wrong) -> tuple[Comparison, ...]:
    """The value of ``comparisons`` in ``zoo.json``, checked; ``wrong`` makes the error for what it cannot be."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MOST_COMPARISONS:
        raise wrong("comparisons is no list of runs")
    return tuple(_comparison(row, wrong) for row in value)


def _comparison(row: Any, wrong: Wrong) -> Comparison:
    texts = ("backbone", "recipe", "start", "split")
    good = isinstance(row, Mapping) and all(isinstance(row.get(name), str) for name in texts)
    if not good or row["start"] not in ("random", "pretrained") or not _is_count(row.get("seed")):
        raise wrong("a comparison is not as it should be")
    metrics = row.get("metrics")
    if not isinstance(metrics, Mapping) or not all(_is_finite(v) for v in metrics.values()):
        raise wrong("metrics of a comparison are not numbers")
    return Comparison(**{name: row[name] for name in texts}, seed=row["seed"], metrics=dict(metrics))


def read_samples(value: Any, wrong: Wrong) -> dict[str, dict[str, int]]:
    """The value of ``samples`` in ``zoo.json``: split -> column -> labels that the metrics count."""
    if value is None:
        return {}
    rows = value.values() if isinstance(value, Mapping) else [None]
    if not all(isinstance(row, Mapping) and all(_is_count(n) for n in row.values()) for row in rows):
        raise wrong("samples are not counts of each split and column")
    return {split: dict(row) for split, row in value.items()}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
