"""The report over all target columns of a split."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from zoo_registry import Column, DataError

from zoo.data.dataset import Split
from zoo.evaluation.column_report import ColumnReport
from zoo.evaluation.metrics import MAIN_METRIC, evaluate_column, labelled_rows
from zoo.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Report:
    """Metrics of all columns.

    Attributes:
        columns: column name -> its report.
        metrics: one flat mapping; with several columns the names are ``column.metric``.
        samples: how many samples were predicted.
        skipped: ``{"file", "reason"}`` of the unreadable ones.
    """

    columns: dict[str, ColumnReport]
    metrics: dict[str, float]
    samples: int
    skipped: list[dict[str, str]]

    def to_json(self) -> dict[str, Any]:
        """The public form of ``zoo evaluate --json``."""
        first = next(iter(self.columns.values()))
        out: dict[str, Any] = {"metrics": self.metrics, "samples": self.samples, "skipped": self.skipped}
        if len(self.columns) == 1:
            return {**out, **{k: v for k, v in first.to_json().items() if k not in ("metrics", "samples")}}
        return {**out, "columns": {name: report.to_json() for name, report in self.columns.items()}}


def report_columns(columns: tuple[Column, ...], found: Predictions, split: Split) -> Report:
    """Compare predictions with the split's targets; every readable, labelled sample counts exactly once.

    What the head measures itself stands beside the metrics of the column's kind, averaged over the labelled samples. Of
    several columns those without a label in this split have no metrics.

    Raises:
        DataError: no sample of the split could be read, or there is no label at all.
    """
    rows = np.asarray(found.indices, dtype=int)
    if not len(rows):
        first = f"; the first is {found.bad[0].id!r}: {found.bad[0].reason}" if found.bad else ""
        raise DataError(f"none of the {len(split)} samples of {split.name} can be read{first}")
    targets = {column.name: np.asarray(split.encoded[column.name])[rows] for column in columns}
    blank = {name for name, values in targets.items() if not labelled_rows(values).any()}
    if len(blank) == len(columns) > 1:
        raise DataError(f"{split.name} has no label in any column", hint="evaluate on labelled data")
    reports = {
        column.name: ColumnReport(metrics={})
        if column.name in blank and len(columns) > 1
        else _report(column, found, targets[column.name])
        for column in columns
    }
    if len(columns) == 1:
        metrics = dict(reports[columns[0].name].metrics)
    else:
        metrics = {f"{name}.{metric}": value for name, r in reports.items() for metric, value in r.metrics.items()}
    return Report(reports, metrics, len(rows), [{"file": bad.id, "reason": bad.reason} for bad in found.bad])


def _report(column: Column, found: Predictions, targets: np.ndarray) -> ColumnReport:
    report = evaluate_column(
        column, found.scores[column.name], targets, threshold=found.threshold, abstains=found.abstains
    )
    labelled = labelled_rows(targets)
    own = {name: values[labelled] for name, values in found.measured.get(column.name, {}).items()}
    means = {name: float(np.nanmean(values)) for name, values in own.items() if not np.isnan(values).all()}
    more = {name: value for name, value in means.items() if name not in report.metrics}
    return dataclasses.replace(report, metrics={**report.metrics, **more})


def main_score(columns: tuple[Column, ...], metrics: Mapping[str, float]) -> float:
    """The one number by which the best epoch is chosen: the mean of the columns' main metrics, higher is better.

    Columns without a metric, as they had no label, do not count.
    """
    values = []
    for column in columns:
        name, higher = MAIN_METRIC[column.kind]
        value = metrics.get(name if len(columns) == 1 else f"{column.name}.{name}")
        if value is not None:
            values.append(value if higher else -value)
    return math.fsum(values) / len(values)
