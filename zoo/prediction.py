"""Predicting loose files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from zoo_registry import Column

from zoo.data import open_files
from zoo.evaluation.predictions import head_threshold, iterate_batches
from zoo.training.pipeline import Pipeline

if TYPE_CHECKING:
    from zoo.bundle.read import LoadedModel


@dataclass(frozen=True, kw_only=True)
class PredictedFile:
    """What a model says of one file and one column.

    Attributes:
        file: as given (below its folder where a folder was given).
        column: the target column.
        label: the likeliest class; None for multilabel and regression, where the head abstains, and where the file
            cannot be read.
        score: its probability.
        top: the K likeliest classes, ``(label, probability)``, best first; empty where the head abstains.
        labels: the predicted labels of a multilabel column.
        value: of a regression column.
        error: why the file could not be read, None where it could.
    """

    file: str
    column: str
    label: str | None = None
    score: float | None = None
    top: tuple[tuple[str, float], ...] = ()
    labels: tuple[str, ...] | None = None
    value: float | None = None
    error: str | None = field(default=None)

    @property
    def abstains(self) -> bool:
        """Whether the head would not say: the file is like nothing it was fitted on."""
        return self.error is None and self.value is None and self.labels is None and self.label is None

    def to_json(self) -> dict[str, Any]:
        """The public row of ``zoo predict --json``."""
        row: dict[str, Any] = {"file": self.file, "column": self.column}
        if self.error is not None:
            return {**row, "error": self.error}
        if self.value is not None:
            return {**row, "value": self.value}
        top = [{"label": label, "score": score} for label, score in self.top]
        if self.labels is not None:
            return {**row, "labels": list(self.labels), "top": top}
        return {**row, "label": self.label, "score": self.score, "top": top}


def predict_files(
    loaded: LoadedModel,
    files: Sequence[str],
    *,
    top: int = 1,
    batch_size: int = 64,
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Iterator[PredictedFile]:
    """Predict files in the order given; folders are expanded. Unreadable files get a row with the reason.

    Raises:
        UsageError: a path does not exist.
    """
    split = open_files(files)
    pipeline = Pipeline(loaded.model.backbone, loaded.input, next(loaded.model.parameters()).device)
    threshold = head_threshold(loaded.model)
    for batch in iterate_batches(split, pipeline, batch_size=batch_size, workers=workers):
        scores: dict[str, np.ndarray] = {}
        if batch.ids:
            with torch.no_grad():
                outputs = loaded.model.predict(pipeline.feed(batch.views["eval"]))
                decoded = loaded.model.head.decode(outputs)
            scores = {name: values.float().cpu().numpy() for name, values in decoded.items()}
        rows: list[tuple[str, int, str | None]] = [(split.ids[i], place, None) for place, i in enumerate(batch.ids)]
        rows += [(bad.id, -1, bad.reason) for bad in batch.bad]
        order = {name: number for number, name in enumerate(split.ids)} if batch.bad else {}
        rows.sort(key=lambda row: order.get(row[0], 0))
        for name, place, reason in rows:
            for column in loaded.document.columns:
                if reason is not None:
                    yield PredictedFile(file=name, column=column.name, error=reason)
                else:
                    yield _predicted(name, column, scores[column.name][place], top, threshold)
        if progress is not None:
            progress(len(rows))


def _predicted(file: str, column: Column, scores: np.ndarray, top: int, threshold: float) -> PredictedFile:
    if column.kind == "regression":
        return PredictedFile(file=file, column=column.name, value=float(scores))
    if column.kind == "classification" and not scores.any():
        return PredictedFile(file=file, column=column.name)
    best = np.argsort(-scores, kind="stable")[: max(1, top)]
    ranked = tuple((column.classes[i], float(scores[i])) for i in best)
    if column.kind == "multilabel":
        labels = tuple(c for c, s in zip(column.classes, scores, strict=True) if s >= threshold)
        return PredictedFile(file=file, column=column.name, labels=labels, top=ranked)
    return PredictedFile(file=file, column=column.name, label=ranked[0][0], score=ranked[0][1], top=ranked)
