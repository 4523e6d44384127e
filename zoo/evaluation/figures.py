"""The figures of a run, as PNG files. matplotlib is imported on the first call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.evaluation.calibration import Calibration
from zoo.evaluation.canvas import BLUE, GREY, INK, MUTED, PALE, drawing, plain, shorten, title
from zoo.evaluation.counts import ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ANNOTATED = 30
"""Confusion matrices of up to this many classes have the counts written into their cells."""

LETTER = 0.0094
"""Width of a letter in inches, for each point of font size."""

FEW = 10
"""Bins of the reliability diagram with fewer samples are pale: their accuracy is chance."""

LABELLED = 120
"""Up to this many classes every one is labelled, beyond only every second, third..."""


def confusion_figure(
    confusion: np.ndarray, classes: Sequence[str], path: Path, *, heading: str = "Confusion", abstained: int = 0
) -> Path:
    """Draw a confusion matrix: counts as text, the share of the true class (row) as colour.

    Args:
        confusion: [C, C] counts; rows are true classes, columns predicted ones.
        classes: the C labels; long ones are shortened.
        path: the PNG to write.
        heading: stands above it, with the accuracy and the number of samples.
        abstained: samples that were not predicted; they are in no cell, and said above.

    Returns:
        ``path``. Rows without samples are grey. The colour scale is a square root, so that rare mistakes show.
    """
    count = len(classes)
    labels = [shorten(label) for label in classes]
    font = float(np.clip(260 / count, 6.0, 9.0))
    cell = float(np.clip(font * 0.022, 0.0, 1.0)) if count > ANNOTATED else 0.4
    margin = LETTER * font * max(map(len, labels))
    side = float(np.clip(cell * count, 2.4, 16.0))
    with drawing(path, side + margin + 1.5, side + margin + 0.9) as figure:
        axes = figure.add_subplot()
        _confusion_cells(figure, axes, confusion, side)
        _confusion_ticks(axes, labels, font, side)
        if count <= ANNOTATED:
            _confusion_counts(axes, confusion, font)
        total = int(confusion.sum())
        more = f", {abstained:,} not predicted" if abstained else ""
        title(axes, f"{heading}: {np.trace(confusion) / max(total, 1):.1%} of {total:,} right{more}")
    return path


def _confusion_cells(figure: Figure, axes: Axes, confusion: np.ndarray, side: float) -> None:
    """The coloured cells, ``side`` inches wide, and the bar that explains the colours."""
    from matplotlib.colors import PowerNorm

    axes.set_facecolor(GREY)
    support = confusion.sum(axis=1, keepdims=True)
    shares = np.where(support > 0, ratio(confusion, np.broadcast_to(support, confusion.shape)), np.nan)
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="nearest")
    axes.spines[:].set_visible(False)
    beside = axes.inset_axes((1 + 0.1 / side, 0.0, 0.13 / side, 1.0))
    bar = figure.colorbar(image, cax=beside, ticks=[0, 0.01, 0.05, 0.25, 0.5, 1])
    bar.ax.set_yticklabels(["0", "1 %", "5 %", "25 %", "50 %", "100 %"], fontsize=7.5)
    bar.outline.set_visible(False)


def _confusion_ticks(axes: Axes, labels: list[str], font: float, side: float) -> None:
    count = len(labels)
    places = np.arange(0, count, -(-count // LABELLED))
    names = [labels[i] for i in places]
    upright = LETTER * font * max(map(len, names)) > side / count
    axes.set_xticks(places, names, fontsize=font, rotation=90 if upright else 0)
    axes.set_yticks(places, names, fontsize=font)
    plain([*axes.get_xticklabels(), *axes.get_yticklabels()])
    axes.tick_params(length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= LABELLED:
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.0 if count <= ANNOTATED else 0.3)
        axes.tick_params(which="minor", length=0)


def _confusion_counts(axes: Axes, confusion: np.ndarray, font: float) -> None:
    """The counts that are not zero; white on dark cells."""
    support = confusion.sum(axis=1)
    for (row, column), number in np.ndenumerate(confusion):
        if number:
            dark = number / support[row] > 0.3
            text = str(number) if number < 10_000 else f"{number / 1000:.0f}k"
            size = min(font, 9.0 if len(text) < 4 else 7.0)
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color="white" if dark else INK)


def calibration_figure(calibration: Calibration, path: Path, *, heading: str = "Calibration") -> Path:
    """Draw a reliability diagram: accuracy of each confidence bin as bars, and below how many samples lie in each.

    On the diagonal a prediction is as often right as it says; bars below it are over-confident. The dots stand at the
    bins' mean confidence. Returns ``path``.
    """
    edges = np.linspace(0, 1, len(calibration.counts) + 1)
    bars = {"width": edges[1] - edges[0], "align": "edge", "edgecolor": "white", "linewidth": 0.8}
    full, few = calibration.counts > 0, calibration.counts < FEW
    with drawing(path, 4.8, 5.2) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for chosen, colour, label in (
            (full & ~few, BLUE, "accuracy"),
            (full & few, PALE, f"of fewer than {FEW} samples"),
        ):
            if chosen.any():
                upper.bar(edges[:-1][chosen], calibration.accuracy[chosen], color=colour, label=label, **bars)
        upper.plot([0, 1], [0, 1], color=MUTED, linestyle=(0, (4, 3)), linewidth=1, label="ideal")
        upper.plot(calibration.confidence[full], calibration.accuracy[full], "o", color=INK, markersize=3.5)
        upper.set(ylim=(0, 1.02), xlim=(0, 1), ylabel="accuracy")
        upper.legend(loc="upper left", frameon=False, fontsize=8)
        title(upper, f"{heading}: expected error {calibration.error:.1%}, {int(calibration.counts.sum()):,} samples")
        lower.bar(edges[:-1], calibration.counts, color=GREY, **{**bars, "edgecolor": MUTED, "linewidth": 0.4})
        lower.set(ylabel="samples", xlabel="confidence")
    return path
