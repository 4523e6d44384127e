"""Words and names for the card."""

from __future__ import annotations

import math
from typing import Any

from zoo_registry import AudioInput, Column, ImageInput, Input, TextInput

from zoo.bundle.document import Document
from zoo.evaluation.metrics import MAIN_METRIC

PLACEHOLDER = "owner/name"
"""Stands for the repo's name until the model is pushed."""
METRICS = {
    "accuracy": "share that is right",
    "top5": "share whose class is among the five likeliest",
    "macro_f1": "mean F1 of the classes, each counting the same",
    "micro_f1": "F1 of all decisions together",
    "balanced_accuracy": "mean recall of the classes",
    "nll": "negative log-likelihood; lower is better",
    "ece": "expected calibration error, 15 bins; lower is better",
    "map": "mean average precision of the classes",
    "subset_accuracy": "share with every label right",
    "coverage": "share that was predicted at all",
    "selective_accuracy": "accuracy on what was predicted",
    "mae": "mean absolute error; lower is better",
    "rmse": "root of the mean squared error; lower is better",
    "r2": "coefficient of determination; 1 is perfect",
}
"""What a metric is, in half a line; those of a head's own are shown without."""


def plain(text: str) -> str:
    """A name as it may stand in Markdown: in one line, and no mark in it ends what it stands in."""
    return "".join(c if c.isprintable() and c not in "`<>|" else "?" for c in text)


def code(text: str) -> str:
    """A name as code."""
    return f"`{plain(text)}`"


def title(document: Document) -> str:
    """``resnet18.a1_in1k fine-tuned for label``."""
    columns = ", ".join(column.name for column in document.columns)
    return f"{document.backbone.rpartition('/')[2]} fine-tuned for {columns}"


def input_words(given: Input) -> str:
    """What goes in: ``images of 64 x 64 px, 3 channels``."""
    if isinstance(given, ImageInput):
        return f"images of {given.size[0]} x {given.size[1]} px, {given.channels} channels"
    return {TextInput: "text", AudioInput: "audio"}.get(type(given), given.kind)


def modality(document: Document) -> str:
    """``image``, ``text`` or ``audio``."""
    return document.input.kind


def recipe_label(document: Document) -> str:
    """The strategies as on the command line, ``linear:3,full:10``."""
    return ",".join(_phase_label(phase) for phase in document.recipe.get("phase", []))


def _phase_label(phase: dict[str, Any]) -> str:
    names = "+".join(str(c["name"]).rpartition("/")[2] for c in phase.get("strategies", []))
    return f"{names}:{phase['epochs']}" if phase.get("epochs") else f"{names}:{phase.get('steps', 0)}s"


def main_metrics(document: Document) -> list[tuple[str, str]]:
    """Column name and the name of its main metric in ``metrics``, for each column that was measured."""
    several = len(document.columns) > 1
    rows = [(c.name, f"{c.name}." * several + MAIN_METRIC[c.kind][0]) for c in document.columns]
    known = {name for metrics in document.metrics.values() for name in metrics}
    return [row for row in rows if row[1] in known]


def column_of(document: Document, metric: str) -> Column:
    """The column that a metric is of: ``column.metric`` where there are several, and the longest name that fits."""
    fitting = [c for c in document.columns if metric.startswith(f"{c.name}.")] if len(document.columns) > 1 else []
    return max(fitting, key=lambda c: len(c.name), default=document.columns[0])


def judged(document: Document) -> str | None:
    """The split that counts: ``test`` where it was measured, else ``val``, else the first."""
    return next((name for name in ("test", "val", *document.metrics) if name in document.metrics), None)


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share that was found in ``count`` samples (Wilson, 1927).

    ``(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``.
    """
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - spread) / (1 + z * z / count), (middle + spread) / (1 + z * z / count)


def counted(number: int, noun: str) -> str:
    """``1 sample``, ``2 samples``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
