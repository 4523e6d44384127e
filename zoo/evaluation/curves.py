"""The training curves of a run: loss, main metrics and learning rate over the epochs of all phases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.evaluation.canvas import BLUE, MUTED, ORANGE, PALE, drawing, plain, shorten, title
from zoo.evaluation.metrics import MAIN_METRIC

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAINT = "#cccccc"
COLOURS = (BLUE, ORANGE, "#3a8f5a", "#8f4fa3", "#b3423c", "#7a6a4f")


@dataclass(frozen=True)
class Phase:
    """Where a phase lies: the first and the last of its epochs, counted from 1 over the whole run, and its name."""

    first: int
    last: int
    label: str


def curves_figure(rows: Sequence[Mapping[str, Any]], path: Path, *, heading: str = "Training") -> Path | None:
    """Draw the curves.

    Args:
        rows: of ``metrics.jsonl``. Those with ``event`` ``epoch`` count: ``phase``, ``epoch``, ``train_loss`` and,
            where the epoch was evaluated, ``val`` (metric -> value); ``learning_rates`` (greatest first) make a panel
            of their own. Those with ``event`` ``phase`` give ``label``; those with ``event`` ``step`` are drawn within
            their epoch. A later row of the same phase and epoch (and step) replaces the earlier one; values that are
            null are skipped.
        path: the PNG to write.
        heading: stands above it.

    Returns:
        ``path``, or None, and no file, where there is no epoch to draw.
    """
    epochs = list({(row["phase"], row["epoch"]): row for row in rows if row.get("event") == "epoch"}.values())
    if not epochs:
        return None
    metrics = {name: _validation(epochs, name) for name in _main_metrics(epochs)}
    metrics = {name: values for name, values in metrics.items() if _known(values)}
    steps = _steps(epochs, rows)
    rates = any(row.get("learning_rates") for row in epochs)
    heights = [2.8] + [2.0] * bool(metrics) + [1.2] * rates
    with drawing(path, 6.4, sum(heights)) as figure:
        panels = list(
            figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        )
        if steps:
            places, losses = [x for x, _ in steps], _series(row.get("loss") for _, row in steps)
            panels[0].plot(places, losses, color=FAINT, linewidth=1, zorder=1, label="train, single steps")
        _loss_panel(panels[0], _series(row.get("train_loss") for row in epochs), _validation(epochs, "nll"))
        if metrics:
            _metric_panel(panels[1], metrics)
        if rates:
            _rate_panel(panels[-1], epochs, steps)
        spans = _phase_spans(epochs, rows)
        _phases(panels, spans)
        title(panels[0], heading, pad=6 if len(spans) == 1 else 17)
        _epoch_axis(panels[-1], len(epochs))
    return path


def _steps(
    epochs: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[tuple[float, Mapping[str, Any]]]:
    """Place on the epoch axis and row of each logged step; the epoch at x takes the room from x - 0.5 to x + 0.5."""
    places = {(row["phase"], row["epoch"]): x for x, row in enumerate(epochs, start=1)}
    lengths = {row["phase"]: row["step"] / (row["epoch"] + 1) for row in epochs if row["epoch"] == 0}
    found = {}
    for row in rows:
        key = (row.get("phase"), row.get("epoch"))
        if row.get("event") == "step" and key in places and lengths.get(row["phase"]):
            share = row["step"] / lengths[row["phase"]] - row["epoch"]
            found[(*key, row["step"])] = (places[key] - 0.5 + share, row)
    return list(found.values())


def _rate_panel(
    axes: Axes, epochs: Sequence[Mapping[str, Any]], steps: Sequence[tuple[float, Mapping[str, Any]]]
) -> None:
    """The greatest rate of the last step of each epoch, or of each logged step; down to the least one a pale band."""
    known = steps or [(x + 0.5, row) for x, row in enumerate(epochs, start=1)]
    known = [(x, row) for x, row in known if row.get("learning_rates")]
    for phase in dict.fromkeys(row["phase"] for _, row in known):
        here = [(x, row["learning_rates"]) for x, row in known if row["phase"] == phase]
        places, most, least = ([x for x, _ in here], *([rates[end] for _, rates in here] for end in (0, -1)))
        if most != least:
            axes.fill_between(places, least, most, color=PALE, alpha=0.5, linewidth=0)
        marker = None if len(here) > 30 or (steps and len(here) > 1) else "o"
        axes.plot(places, most, color=BLUE, linewidth=1.5, marker=marker, markersize=3)
    axes.set_ylabel("rate")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def _validation(epochs: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """The metric ``name`` of each epoch, NaN where it was not measured."""
    return _series((row.get("val") or {}).get(name) for row in epochs)


def _series(values: Any) -> list[float]:
    """Numbers, NaN for what is missing."""
    return [float(v) if isinstance(v, int | float) else math.nan for v in values]


def _main_metrics(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The main metrics among the names, which are ``metric`` or, with several columns, ``column.metric``."""
    main = {name for name, _ in MAIN_METRIC.values()}
    names = dict.fromkeys(name for row in epochs for name in row.get("val") or {})
    return [name for name in names if name.rpartition(".")[2] in main][: len(COLOURS)]


def _known(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _line(axes: Axes, values: list[float], label: str, colour: str) -> None:
    """A line that skips epochs without a value; with few points they are marked."""
    points = [(x, y) for x, y in enumerate(values, start=1) if math.isfinite(y)]
    marker = "o" if len(points) <= 30 else None
    axes.plot(*zip(*points), color=colour, linewidth=1.5, marker=marker, markersize=3, label=label)


def _loss_panel(axes: Axes, training: list[float], validation: list[float]) -> None:
    """Training loss and, where there is one column of classes, the validation's negative log-likelihood."""
    for values, label, colour in ((training, "train", MUTED), (validation, "validation (nll)", BLUE)):
        if _known(values):
            _line(axes, values, label, colour)
    axes.set_ylabel("loss")
    if all(value >= 0 for value in _known(training)):
        axes.set_ylim(bottom=0)
    if axes.get_lines():
        axes.legend(frameon=False, fontsize=8, loc="best")


def _metric_panel(axes: Axes, metrics: Mapping[str, list[float]]) -> None:
    """Metrics with their best epoch; the axis ends at 1 where they all lie within 0..1."""
    for (name, values), colour in zip(metrics.items(), COLOURS, strict=False):
        best = max((v, -x) for x, v in enumerate(values, start=1) if math.isfinite(v))
        _line(axes, values, f"{shorten(name, 30)}: best {best[0]:.3f} (epoch {-best[1]})", colour)
        axes.plot(-best[1], best[0], "o", color=colour, markersize=7, markerfacecolor="none")
    axes.set_ylabel("validation")
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    finite = [value for values in metrics.values() for value in _known(values)]
    if min(finite) >= 0 and max(finite) <= 1:
        low = max(0.0, min(finite) - 0.1)
        axes.set_ylim(low, 1 + 0.03 * (1 - low))
    plain(axes.legend(frameon=False, fontsize=8, loc="best").get_texts())


def _epoch_axis(axes: Axes, epochs: int) -> None:
    """Whole epochs only: all of a few, some of many."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, epochs + 0.5)
    if epochs <= 12:
        axes.set_xticks(range(1, epochs + 1))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _phase_spans(epochs: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[Phase]:
    """The phases that have epochs, in order."""
    labels = {row["phase"]: str(row.get("label", "")) for row in rows if row.get("event") == "phase"}
    spans = []
    for phase in dict.fromkeys(row["phase"] for row in epochs):
        places = [x for x, row in enumerate(epochs, start=1) if row["phase"] == phase]
        spans.append(Phase(places[0], places[-1], labels.get(phase) or f"phase {phase + 1}"))
    return spans


def _phases(panels: list[Axes], spans: list[Phase]) -> None:
    """A line between phases, and their names above the first panel, as long as there is room."""
    for before in spans[:-1]:
        for axes in panels:
            axes.axvline(before.last + 0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    for span in spans if len(spans) > 1 else []:
        room = 80 * (span.last - span.first + 1) / spans[-1].last
        text = panels[0].annotate(
            shorten(span.label, max(6, int(room))),
            (span.first - 0.5, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(1, 4),
            textcoords="offset points",
            fontsize=8,
            color=MUTED,
        )
        plain([text])
