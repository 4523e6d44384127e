"""What the data holds: columns, how often each class comes, and whether some hardly ever do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from zoo_registry import Column, Registry

from zoo.data.dataset import Dataset, Split
from zoo.preview.report import ColumnView

IMBALANCED = 10
"""A hint is given where the most frequent class has so many times the samples of the rarest."""


def data_json(data: Dataset) -> dict[str, Any]:
    """Columns with their counts, sizes of the splits, what was left out."""
    return {
        "columns": [column_view(column, data.split("train")) for column in data.columns],
        "splits": {name: len(split) for name, split in data.splits.items()},
        "ignored": data.ignored,
        "fingerprint": data.fingerprint,
    }


def column_view(column: Column, train: Split) -> ColumnView:
    """One column of ``train``."""
    values = np.asarray(train.encoded[column.name])
    if column.kind == "classification":
        absent = values < 0
    else:
        unknown = np.isnan(values)
        absent = unknown.all(axis=1) if unknown.ndim > 1 else unknown
    known = values[~absent]
    numbers = not column.classes and known.size > 0
    return ColumnView(
        name=column.name,
        kind=column.kind,
        classes=column.classes,
        counts=train.class_counts(column.name) if column.classes else {},
        missing=int(absent.sum()),
        range=(float(known.min()), float(known.mean()), float(known.max())) if numbers else None,
    )


def imbalance_notes(columns: Iterable[ColumnView], registry: Registry, roles: set[str]) -> list[str]:
    """A line for each column with classes that hardly ever come, unless a strategy weighs the samples already."""
    if "sampling" in roles:
        return []
    weighing = [entry.name for entry in registry.entries("strategy") if entry.spec.role == "sampling"]
    found = []
    for column in columns:
        counts = {name: n for name, n in column.counts.items() if n}
        if len(counts) < 2:
            continue
        rare, common = min(counts, key=lambda name: counts[name]), max(counts, key=lambda name: counts[name])
        if counts[common] >= IMBALANCED * counts[rare]:
            offer = f"; strategies that draw the rare ones more often: {', '.join(weighing)}" if weighing else ""
            found.append(
                f"{column.name}: classes are imbalanced, {counts[common]} samples of {common!r} and "
                f"{counts[rare]} of {rare!r}{offer}"
            )
    return found
