"""Predicting loose files, as many as there are: names come as they are found, rows go as they are made."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from zoo_registry import Column

from zoo.data.files import check_paths, file_stream, find_files, no_images
from zoo.data.loader import Draw, LoadedBatch
from zoo.evaluation.predictions import head_threshold
from zoo.evaluation.running import Feed, Readback, iterate_batches
from zoo.training.pipeline import Pipeline

if TYPE_CHECKING:
    from zoo.bundle.read import LoadedModel

BATCH = 64
"""Files at once, where nothing else is asked for."""


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
    files: str | Path | Iterable[str | Path],
    *,
    top: int = 1,
    batch_size: int = BATCH,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[PredictedFile]:
    """Predict files, each once, in the order given; a row for each file and column, as soon as it is known.

    Args:
        loaded: the model.
        files: files, folders, patterns, ``@list.txt`` (see :func:`zoo.data.files.find_files`); or an iterator of
            paths, which is read as it goes. Unreadable files get a row with the reason.
        top: how many classes of each file.
        batch_size: files at once.
        workers: processes that decode; None decides by timing the first batches.
        progress: told the number of files of each batch.

    Raises:
        UsageError: a path that is named does not exist.
        DataError: there is no file at all.
    """
    if isinstance(files, str | Path | Sequence):
        check_paths(files)
    rows = predict_batches(loaded, find_files(files), top=top, batch_size=batch_size, workers=workers)
    empty = True
    for batch in rows:
        empty = False
        yield from batch
        if progress is not None:
            progress(len({row.file for row in batch}))
    if empty:
        raise no_images(files if isinstance(files, Sequence) and not isinstance(files, str) else [str(files)])


def predict_batches(
    loaded: LoadedModel, names: Iterable[str], *, top: int = 1, batch_size: int = BATCH, workers: int | None = None
) -> Iterator[list[PredictedFile]]:
    """The rows of ``batch_size`` files after the other, in order: so many rows a file as there are columns.

    A batch's numbers depend on its own files alone, so predicting goes on exactly from the border of two batches.
    """
    pipeline = Pipeline(loaded.model.backbone, loaded.input, next(loaded.model.parameters()).device)
    feed, rows = Feed(pipeline), _Rows(loaded, top)
    planned: deque[list[str]] = deque()
    running: deque[tuple[LoadedBatch, Readback]] = deque()
    behind = 1 if pipeline.device.type == "cuda" else 0  # results are read while the next batch runs

    def plan() -> Iterator[list[Draw]]:
        source = iter(names)
        while files := list(islice(source, batch_size)):
            planned.append(files)
            yield [(name, 0) for name in files]  # type: ignore[misc]

    for batch in iterate_batches(file_stream(), pipeline, workers=workers, plan=plan()):
        running.append((batch, _run(loaded, feed, batch)))
        if len(running) > behind:
            yield rows.make(planned.popleft(), *running.popleft())
    while running:
        yield rows.make(planned.popleft(), *running.popleft())


def _run(loaded: LoadedModel, feed: Feed, batch: LoadedBatch) -> Readback:
    if not batch.ids:
        return Readback({})
    with torch.no_grad():
        outputs = loaded.model.predict(feed(batch.views["eval"]))
        return Readback(loaded.model.head.decode(outputs))  # type: ignore[operator]


class _Rows:
    """Makes rows of numbers."""

    def __init__(self, loaded: LoadedModel, top: int) -> None:
        self.columns: tuple[Column, ...] = loaded.document.columns
        self.top = max(1, top)
        self.threshold = head_threshold(loaded.model)

    def make(self, files: list[str], batch: LoadedBatch, found: Readback) -> list[PredictedFile]:
        """The rows of a batch in the order of its files."""
        scores = found.arrays()
        best = {c.name: self._best(scores[c.name]) for c in self.columns if c.name in scores and c.kind != "regression"}
        place = {name: number for number, name in enumerate(batch.ids)}  # ids of a stream are its names
        reasons = {bad.id: bad.reason for bad in batch.bad}
        rows = []
        for file in files:
            for column in self.columns:
                row = place.get(file)  # type: ignore[call-overload]
                if row is None:
                    rows.append(PredictedFile(file=file, column=column.name, error=reasons[file]))
                elif column.kind == "regression":
                    rows.append(PredictedFile(file=file, column=column.name, value=float(scores[column.name][row])))
                else:
                    rows.append(self._row(file, column, scores[column.name][row], best[column.name][row]))
        return rows

    def _best(self, scores: np.ndarray) -> np.ndarray:
        """Places of the highest scores of each row, [N, top], the highest first, of equals the first."""
        if self.top == 1:
            return scores.argmax(1)[:, None]
        return np.argsort(-scores, axis=1, kind="stable")[:, : self.top]

    def _row(self, file: str, column: Column, scores: np.ndarray, best: np.ndarray) -> PredictedFile:
        if column.kind == "classification" and not scores.any():
            return PredictedFile(file=file, column=column.name)
        ranked = tuple((column.classes[i], float(scores[i])) for i in best)
        if column.kind == "multilabel":
            labels = tuple(c for c, s in zip(column.classes, scores, strict=True) if s >= self.threshold)
            return PredictedFile(file=file, column=column.name, labels=labels, top=ranked)
        return PredictedFile(file=file, column=column.name, label=ranked[0][0], score=ranked[0][1], top=ranked)


@dataclass(frozen=True)
class Written:
    """What :func:`predict_to` did.

    Attributes:
        files: in the results.
        unreadable: of them.
        kept: how many an earlier run had done.
    """

    files: int
    unreadable: int
    kept: int


def predict_to(
    out: Path,
    loaded: LoadedModel,
    files: str | Path | Iterable[str | Path],
    *,
    top: int = 1,
    batch_size: int = BATCH,
    workers: int | None = None,
    resume: bool = False,
    progress: Callable[[int], None] | None = None,
    resumed: Callable[[int], None] | None = None,
) -> Written:
    """Predict files into a table (``.csv`` or ``.parquet``) that takes its name when it is complete.

    A run that was killed is gone on with by ``resume`` and ends with the rows of one that was not: each file once, in
    order. What is there already is replaced; ask :func:`zoo.results.check_out` first.

    Args:
        out: the file.
        loaded, files, top, batch_size, workers, progress: as for :func:`predict_files`.
        resume: go on with what an earlier run left, start where there is nothing.
        resumed: told how many files it had done.

    Raises:
        UsageError, DataError: as :func:`predict_files`.
        ConflictError: another process writes there, or the earlier run had another model, options or files.
        IntegrityError: what it left is damaged.
    """
    from zoo.results import ResultFile

    about = {
        "model": hashlib.sha256((loaded.path / "manifest.json").read_bytes()).hexdigest()[:16],
        "columns": [column.name for column in loaded.document.columns],
        "top": top,
        "batch size": batch_size,
        "device": next(loaded.model.parameters()).device.type,
    }
    with ResultFile(out, about, top=top, resume=resume) as results:
        names = results.skip(find_files(files))
        started = False
        for rows in predict_batches(loaded, names, top=top, batch_size=batch_size, workers=workers):
            if not started and results.kept and resumed is not None:
                resumed(results.kept)
            started = True
            count = results.add(rows)
            if progress is not None:
                progress(count)
        results.finish()
        return Written(results.files, results.unreadable, results.kept)
