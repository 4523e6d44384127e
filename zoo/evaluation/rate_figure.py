"""The learning-rate finder's curve: loss over rate, with the suggestion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.evaluation.canvas import BLUE, MUTED, ORANGE, drawing, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def rate_figure(phases: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw a panel for each phase.

    Args:
        phases: rows of ``find-lr.json``: ``phase label rate suggestion lowest end rates losses smoothed``.
        path: the PNG to write.
    """
    with drawing(path, 6.4, 0.6 + 2.6 * len(phases)) as figure:
        for axes, row in zip(figure.subplots(len(phases), 1, sharex=True, squeeze=False)[:, 0], phases, strict=True):
            _panel(axes, row)
        axes.set_xlabel("learning rate")
    return path


def _panel(axes: Axes, row: Mapping[str, Any]) -> None:
    rates, losses, smoothed = row["rates"], row["losses"], row["smoothed"]
    axes.set_xscale("log")
    axes.plot(rates, losses, ".", color=MUTED, markersize=3, label="each step")
    axes.plot(rates, smoothed, color=BLUE, linewidth=1.5, label="smoothed")
    if row["suggestion"] is not None:
        label = f"suggestion {row['suggestion']:g}"
        axes.axvline(row["suggestion"], color=ORANGE, linewidth=1.2, label=label)
    axes.axvline(row["rate"], color=MUTED, linewidth=0.9, linestyle=(0, (2, 3)), label=f"the recipe's {row['rate']:g}")
    if smoothed:
        low, high = min(smoothed), max(smoothed[: max(1, len(smoothed) // 2)])
        room = max(high - low, 1e-6)
        axes.set_ylim(low - 0.15 * room, high + 0.6 * room)
    axes.set_ylabel("loss")
    axes.legend(frameon=False, fontsize=8, loc="best")
    title(axes, f"phase {row['phase'] + 1}: {row['label']}")
