"""The figure: label curves, shifts, imbalance, and accuracy against trainable parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grid import STARTERS
from table import CLEAN, SHIFTED, WORST, Table
from tasks import LABELS
from ways import WAYS

CURVES = {"scratch": "#999999", "linear": "#4477aa", "full": "#222222", "lp-ft": "#ee6677", "l2-sp": "#228833",
          "lora": "#aa3377"}  # fmt: skip
COLOURS = {"cnn": "#4477aa", "vit": "#ee6677"}
BALANCED = ("full", "class-balanced", "logit-adjustment", "focal", "label-smoothing", "lp-ft", "prototype", "ridge")


def draw_figure(table: Table, path: Path) -> None:
    """Six panels as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10})
    figure, axes = pyplot.subplots(
        2, 3, figsize=(14, 11), layout="constrained", gridspec_kw={"height_ratios": [1, 1.5]}
    )
    for axis, starter in zip(axes[0], STARTERS):
        _curves(axis, table, starter)
    _bars(axes[0][2], table)
    _dots(axes[1][0], table, "digits-10", SHIFTED, "learnt clean, tested shifted: difference to full, points")
    _dots(axes[1][1], table, "digits-10", CLEAN, "10 labels a class, clean: difference to full, points")
    _dots(axes[1][2], table, "glyphs", CLEAN, "60 glyphs, held-out face: difference to full, points")
    figure.suptitle("Mean and deviation of five paired draws; blue: starter/cnn, red: starter/vit", fontsize=11)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _curves(axis: Any, table: Table, starter: str) -> None:
    for way, colour in CURVES.items():
        points = [(k, s) for k in LABELS if (s := table.stat(f"digits-{k}", way, starter))]
        if points:
            axis.errorbar(
                [k for k, _ in points], [s.mean for _, s in points], [s.spread for _, s in points],
                label=way, color=colour, marker="o", markersize=4, capsize=2, linewidth=1.4,
            )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xticks(LABELS, [str(k) for k in LABELS])
    axis.minorticks_off()
    axis.set_ylim(0, 1)
    axis.grid(axis="y", alpha=0.3)
    axis.set_xlabel("labels a class")
    axis.set_title(f"digits, starter/{starter}: accuracy")
    axis.legend(frameon=False, loc="center right", bbox_to_anchor=(1.0, 0.5))


def _bars(axis: Any, table: Table) -> None:
    ways = [w for w in BALANCED if any(table.has("imbalanced", w, s) for s in STARTERS)]
    for shift, starter in zip((-0.2, 0.2), STARTERS):
        for place, way in enumerate(ways):
            stat = table.stat("imbalanced", way, starter, WORST)
            if stat:
                axis.barh(place + shift, stat.mean, 0.38, xerr=stat.spread, color=COLOURS[starter], ecolor="#555555",
                          capsize=2, label=starter if way == "full" else None)  # fmt: skip
    axis.set_yticks(range(len(ways)), ways)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.grid(axis="x", alpha=0.3)
    axis.legend(frameon=False, loc="lower right")
    axis.set_title("imbalanced digits: recall of the worst class")


def _dots(axis: Any, table: Table, task: str, metric: str, title: str) -> None:
    names = [w for w in WAYS if w not in ("full", "scratch", "scratch-long")]
    ways = [w for w in names if any(table.pair(task, w, "full", s, metric) for s in STARTERS)]
    for shift, starter in zip((-0.15, 0.15), STARTERS):
        for place, way in enumerate(ways):
            pair = table.pair(task, way, "full", starter, metric)
            if pair:
                axis.errorbar(100 * pair.mean, place + shift, xerr=100 * pair.spread, color=COLOURS[starter],
                              marker="o", markersize=4, capsize=2, linewidth=1)  # fmt: skip
    axis.axvline(0, color="#222222", linewidth=1)
    axis.set_yticks(range(len(ways)), ways)
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    axis.set_title(title)
