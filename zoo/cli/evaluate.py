"""``zoo evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from zoo_registry import DataError

from zoo.cli.counting import open_counter
from zoo.cli.output import (
    device_option,
    emit,
    hub_option,
    json_option,
    locked_option,
    offline_option,
    open_registry,
    say,
    table,
)

if TYPE_CHECKING:
    from zoo.bundle.read import LoadedModel
    from zoo.evaluation.report import Report

WORST = 10
"""Classes shown, worst first, before a count of the rest."""


@click.command()
@click.argument("model")
@click.argument("data")
@click.option("--split", help="train, val, test or all; the data's test split by default, else val.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option(
    "--workers", type=click.IntRange(min=0), default=None, help="Processes that decode images; measured by default."
)
@click.option("--no-features", is_flag=True, help="Run the backbone even where a run has kept its features.")
@click.option("--strict", is_flag=True, help="Refuse data with unreadable images, or with images in two splits.")
@click.option("--figures", type=click.Path(path_type=Path), metavar="DIR", help="Draw the figures there.")
@click.option("--image-column", metavar="NAME", help="Column of a table with the image paths.")
@click.option(
    "--label-column", "label_columns", multiple=True, metavar="NAME", help="Column with targets (repeatable)."
)
@click.option("--split-column", metavar="NAME", help="Column that says train, val or test.")
@device_option
@hub_option
@offline_option
@locked_option
@json_option
def evaluate(
    model: str,
    data: str,
    split: str | None,
    batch_size: int,
    workers: int | None,
    no_features: bool,
    strict: bool,
    figures: Path | None,
    image_column: str | None,
    label_columns: tuple[str, ...],
    split_column: str | None,
    device: str,
    hub: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Measure MODEL on DATA: every readable sample counts exactly once, classes are held to the model's by name.

    MODEL is a run folder, a bundle folder, or owner/name[@revision] on a hub.

    \b
    Example:
      zoo evaluate run photos/ --split val
      zoo evaluate me/flowers@v1 photos/ --hub hub/ --json
    """
    registry = open_registry()
    from zoo.devices import resolve_device
    from zoo.models import evaluate_model, load_model

    loaded = load_model(model, registry, device=resolve_device(device), hub=hub, offline=offline)
    with open_counter("sample") as counter:
        report = evaluate_model(
            loaded,
            data,
            split=split,
            batch_size=batch_size,
            workers=workers,
            progress=counter.add,
            kept=not no_features,
            note=lambda text: say(text, as_json=as_json),
            image_column=image_column,
            label_columns=label_columns,
            split_column=split_column,
            strict=strict,
        )
    if strict and report.skipped:
        raise _unreadable(report)
    if figures is not None:
        draw(report, loaded, figures)
    emit({"model": model, **report.to_json()}, as_json, lambda: print_report(report))


def _unreadable(report: Report) -> DataError:
    first, count = report.skipped[0], len(report.skipped)
    total = report.samples + count
    return DataError(
        f"{count} of {total} samples cannot be read; the first is {first['file']!r}: {first['reason']}",
        hint="repair or remove them, or leave --strict out",
    )


def print_report(report: Report) -> None:
    """Metrics, then the worst classes."""
    table([[name, f"{value:.4f}"] for name, value in report.metrics.items()], ["metric", "value"])
    say(f"{report.samples} samples" + (f", {len(report.skipped)} unreadable ones skipped" if report.skipped else ""))
    for row in report.skipped[:WORST]:
        say(f"  skipped {row['file']}: {row['reason']}")
    for name, column in report.columns.items():
        if column.per_class and "f1" in column.per_class[0]:
            worst = sorted(column.per_class, key=lambda row: row["f1"])[:WORST]
            keys = [key for key in worst[0] if isinstance(worst[0][key], int | float | str)]
            say(f"classes of {name}, worst first" + (f" ({len(worst)} of {len(column.per_class)})"))
            table([[_cell(row[key]) for key in keys] for row in worst], keys)


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def draw(report: Report, loaded: LoadedModel, folder: Path) -> None:
    """Confusion and calibration figures of every column."""
    from zoo.evaluation.figures import calibration_figure, confusion_figure

    folder.mkdir(parents=True, exist_ok=True)
    for column in loaded.document.columns:
        found = report.columns[column.name]
        if found.confusion is not None:
            confusion_figure(
                found.confusion, column.classes, folder / f"confusion_{column.name}.png", abstained=found.abstained
            )
        if found.calibration is not None:
            calibration_figure(found.calibration, folder / f"calibration_{column.name}.png")
