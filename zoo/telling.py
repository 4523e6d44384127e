"""What a finished run tells of itself in ``zoo.json`` and the card: data without its place, weak spots, figures."""

from __future__ import annotations

import contextlib
import getpass
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from zoo_registry import Column

from zoo.data.dataset import Dataset
from zoo.evaluation.report import Report

UNEVEN = 5
"""The largest class has so many times the samples of the smallest: said."""
WEAK = 0.75
"""Classes are named as weak where their recall is below so much of the mean."""
FEW = 10
"""Fewer labels of a class tell nothing of it."""


def describe_data(data: Dataset) -> dict[str, Any]:
    """What ``zoo.json`` and the card say of the data."""
    counts = {name: len(split) for name, split in data.splits.items()}
    told = {**data.description, "fingerprint": data.fingerprint, "splits": counts}
    return {**told, "name": public_name(str(told.get("name", "")), str(told.get("form", "data")))}


def public_name(name: str, form: str) -> str:
    """The name of the data: the last part of a path; its form where that tells who works here or on what machine."""
    leaf = re.split(r"[\\/]", name.rstrip("\\/"))[-1]
    words = {leaf.casefold(), *re.split(r"[\W_]+", leaf.casefold())}
    return form if words & _private_words() else leaf


def _private_words() -> set[str]:
    words = {Path.home().name, platform.node(), platform.node().partition(".")[0]}
    with contextlib.suppress(OSError, KeyError):  # an account without a name
        words.add(getpass.getuser())
    return {word.casefold() for word in words if word}


def count_labels(reports: Mapping[str, Report]) -> dict[str, dict[str, int]]:
    """Split -> column -> labels that the metrics count."""
    return {split: {name: found.samples for name, found in r.columns.items()} for split, r in reports.items()}


def told_notes(data: Dataset, report: Report, split: str) -> tuple[str, ...]:
    """Lines on what is weak: unread samples, uneven classes, classes that are often missed."""
    notes = []
    if report.skipped:
        total = len(data.splits[split])
        notes.append(
            f"{len(report.skipped)} of the {total} samples of {split} could not be read and count in no metric."
        )
    for column in data.columns:
        notes += [*_uneven(column, data), *_weak(column, report, split)]
    return tuple(notes)


def _uneven(column: Column, data: Dataset) -> Iterator[str]:
    targets = np.asarray(data.splits["train"].encoded[column.name])
    if column.kind != "classification" or not np.issubdtype(targets.dtype, np.integer):
        return
    counts = np.bincount(targets[targets >= 0], minlength=column.size)
    least, most = int(counts.argmin()), int(counts.argmax())
    if counts[most] >= UNEVEN * max(1, counts[least]):
        few, many = f"{counts[least]} of {_quoted(column, least)}", f"{counts[most]} of {_quoted(column, most)}"
        yield f"The training samples are uneven: from {few} to {many}."


def _weak(column: Column, report: Report, split: str) -> Iterator[str]:
    rows = [row for row in report.columns[column.name].per_class if row.get("support", 0) >= FEW and "recall" in row]
    if column.kind != "classification" or not rows:
        return
    mean = float(np.mean([row["recall"] for row in rows]))
    weak = sorted((row["recall"], str(row["label"])) for row in rows if row["recall"] < WEAK * mean)[:3]
    if weak:
        named = ", ".join(f"`{_marks(label)}` ({recall:.0%} found)" for recall, label in weak)
        yield f"Often missed on {split}: {named}."


def _quoted(column: Column, index: int) -> str:
    return f"`{_marks(column.classes[index])}`"


def _marks(text: str) -> str:
    return "".join(c if c.isprintable() and c not in "`<>|" else "?" for c in text)


def figure_name(column: Column, columns: tuple[Column, ...]) -> str:
    """File name of a column's confusion figure, one that a link in Markdown can hold."""
    if len(columns) == 1:
        return "confusion.png"
    slug = re.sub(r"[^\w-]+", "-", column.name).strip("-") or "column"
    same = [c for c in columns if (re.sub(r"[^\w-]+", "-", c.name).strip("-") or "column") == slug]
    return f"confusion_{slug}.png" if len(same) == 1 else f"confusion_{slug}-{columns.index(column) + 1}.png"


def draw_figures(report: Report, columns: tuple[Column, ...]) -> dict[str, Any]:
    """File name -> function that draws the figure there."""
    from zoo.evaluation.figures import confusion_figure

    figures: dict[str, Any] = {}
    for column in columns:
        found = report.columns[column.name]
        if found.confusion is not None:
            heading = "Confusion" if len(columns) == 1 else f"Confusion of {column.name}"
            figures[figure_name(column, columns)] = lambda path, f=found, c=column, h=heading: confusion_figure(
                f.confusion, c.classes, path, abstained=f.abstained, heading=h
            )
    return figures
