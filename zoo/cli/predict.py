"""``zoo predict``."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
from zoo_registry import DataError

from zoo.cli.output import counted, device_option, hub_option, json_option, offline_option, open_registry

if TYPE_CHECKING:
    from zoo.prediction import PredictedFile

ABSTAINS = "abstains"
"""Stands in the place of a class where the head does not predict the file; the score is empty."""


@click.command()
@click.argument("model")
@click.argument("files", nargs=-1, required=True)
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, metavar="K", help="Classes a file.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Processes that decode images.")
@device_option
@hub_option
@offline_option
@json_option
def predict(
    model: str,
    files: tuple[str, ...],
    top: int,
    as_csv: bool,
    batch_size: int,
    workers: int,
    device: str,
    hub: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Predict FILES (folders are searched) with MODEL.

    A file that cannot be read gets a row that says why; the exit code is then 3. Where the model abstains the label
    is "abstains" without a score (null in --json).

    \b
    Example:
      zoo predict run photo.jpg --top 3
      zoo predict me/flowers photos/ --hub hub/ --csv > predictions.csv
    """
    registry = open_registry()
    from zoo.data import open_files
    from zoo.devices import resolve_device
    from zoo.models import load_model
    from zoo.prediction import predict_files

    open_files(list(files))  # a wrong path is said before the model is loaded
    loaded = load_model(model, registry, device=resolve_device(device), hub=hub, offline=offline)
    rows = predict_files(loaded, files, top=top, batch_size=batch_size, workers=workers)
    unreadable = _print_json(rows) if as_json else _print_csv(rows, top) if as_csv else _print_lines(rows)
    if unreadable:  # not raised: standard output has its one JSON document already
        click.echo(f"error: {counted(unreadable, 'file')} could not be read\nhint: the rows say why", err=True)
        raise click.exceptions.Exit(DataError.exit_code)


def _print_json(rows: Iterable[PredictedFile]) -> int:
    found = list(rows)
    click.echo(json.dumps([row.to_json() for row in found], indent=2, ensure_ascii=False))
    return _count_unreadable(found)


def _print_csv(rows: Iterable[PredictedFile], top: int) -> int:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    ranks = [name for k in range(2, top + 1) for name in (f"label_{k}", f"score_{k}")]
    writer.writerow(["file", "column", "label", "score", *ranks, "error"])
    unreadable = set()
    for row in rows:
        if row.error is not None:
            unreadable.add(row.file)
        label, score = _label(row)
        more = [cell for name, value in row.top[1:top] for cell in (name, f"{value:.6f}")]
        more += [""] * (len(ranks) - len(more))
        writer.writerow([row.file, row.column, label, score, *more, row.error or ""])
    return len(unreadable)


def _print_lines(rows: Iterable[PredictedFile]) -> int:
    unreadable = set()
    for row in rows:
        if row.error is not None:
            unreadable.add(row.file)
            click.echo(f"{row.file}\tunreadable: {row.error}")
            continue
        label, score = _label(row)
        others = "  ".join(f"{name} {value:.3f}" for name, value in row.top[1:])
        click.echo(f"{row.file}\t{row.column}\t{label}\t{score}" + (f"\t{others}" if others else ""))
    return len(unreadable)


def _label(row: PredictedFile) -> tuple[str, str]:
    if row.value is not None:
        return f"{row.value:.6g}", ""
    if row.labels is not None:
        return ";".join(row.labels), ""
    if row.abstains:
        return ABSTAINS, ""
    return row.label or "", f"{row.score:.6f}" if row.score is not None else ""


def _count_unreadable(rows: list[PredictedFile]) -> int:
    return len({row.file for row in rows if row.error is not None})
