"""``zoo predict``."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from zoo_registry import DataError, UsageError

from zoo.cli.output import (
    counted,
    device_option,
    emit,
    hub_option,
    json_option,
    locked_option,
    offline_option,
    open_registry,
)
from zoo.tables import csv_cells, csv_header, shown

if TYPE_CHECKING:
    from zoo.prediction import PredictedFile

Rows = Iterable["PredictedFile"]


@click.command()
@click.argument("model")
@click.argument("files", nargs=-1, required=True)
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, metavar="K", help="Classes a file.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write results.csv or results.parquet instead."
)
@click.option("--resume", is_flag=True, help="With --out: go on where a run was stopped or killed.")
@click.option("--force", is_flag=True, help="With --out: replace what is there.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option(
    "--workers", type=click.IntRange(min=0), default=None, help="Processes that decode images; measured by default."
)
@device_option
@hub_option
@offline_option
@locked_option
@json_option
def predict(
    model: str,
    files: tuple[str, ...],
    top: int,
    as_csv: bool,
    out: Path | None,
    resume: bool,
    force: bool,
    batch_size: int,
    workers: int | None,
    device: str,
    hub: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Predict FILES with MODEL: files, folders (searched for images), patterns such as "photos/**/*.jpg", @list.txt
    with a path a line, or - for such a list on standard input. A million of them take no more memory than a hundred.

    A file that cannot be read gets a row that says why; the exit code is then 3. Where the model abstains the label
    is "abstains" without a score (null in --json).

    With --out, rows go to a file that takes its name when it is complete; --resume goes on after a stop or a kill and
    ends with the same rows.

    \b
    Example:
      zoo predict run photo.jpg --top 3
      zoo predict me/flowers photos/ --hub hub/ --csv > predictions.csv
      find photos -name "*.jpg" | zoo predict run - --out results.csv --resume
    """
    if as_csv and (out is not None or as_json):
        raise UsageError("--csv prints CSV", hint="give --csv, --json or --out results.csv")
    if out is None and (resume or force):
        raise UsageError(f"--{'resume' if resume else 'force'} needs --out", hint="--out results.csv")
    registry = open_registry()
    from zoo.cli.counting import open_counter
    from zoo.data.files import check_paths
    from zoo.devices import resolve_device
    from zoo.models import load_model
    from zoo.results import check_out

    check_paths(files)  # a wrong path is said before the model is loaded
    if out is not None:
        check_out(out, resume=resume, force=force)
        if resume and _complete(out, as_json):
            return
    loaded = load_model(model, registry, device=resolve_device(device), hub=hub, offline=offline)
    from zoo.prediction import predict_files, predict_to

    options: dict[str, Any] = {"top": top, "batch_size": batch_size, "workers": workers}
    with open_counter("file", quiet=out is None) as counter:
        if out is None:
            rows = predict_files(loaded, files, **options, progress=counter.add)
            unreadable = _print_json(rows) if as_json else _print_csv(rows, top) if as_csv else _print_lines(rows)
        else:
            done = predict_to(
                out, loaded, files, **options, resume=resume, progress=counter.add, resumed=counter.start_at
            )
            unreadable = done.unreadable
    if out is not None:
        note = f"{counted(done.files, 'file')} in {out}" + (f", {done.kept} of them from before" if done.kept else "")
        emit({"out": str(out), "files": done.files, "unreadable": unreadable, "kept": done.kept}, as_json, _say(note))
    if unreadable:  # not raised: standard output has its one JSON document already
        click.echo(f"error: {counted(unreadable, 'file')} could not be read\nhint: the rows say why", err=True)
        raise click.exceptions.Exit(DataError.exit_code)


def _complete(out: Path, as_json: bool) -> bool:
    """Whether there is nothing to go on with since all is done; says so."""
    from zoo.results import is_complete

    if not is_complete(out):
        return False
    emit({"out": str(out), "complete": True}, as_json, _say(f"{out} is complete already"))
    return True


def _say(text: str) -> Callable[[], None]:
    return lambda: click.echo(text)


class _Tally:
    """Passes rows on and counts the files that could not be read."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.unreadable = 0

    def __iter__(self) -> Iterator[PredictedFile]:
        before = None
        for row in self.rows:
            self.unreadable += row.error is not None and row.file != before
            before = row.file
            yield row


def _print_json(rows: Rows) -> int:
    """One array, written as it comes, to the letter what ``json.dumps(indent=2)`` makes of it all."""
    tally, first = _Tally(rows), True
    for row in tally:
        text = json.dumps(row.to_json(), indent=2, ensure_ascii=False).replace("\n", "\n  ")
        click.echo(("[\n  " if first else ",\n  ") + text, nl=False)
        first = False
    click.echo("[]" if first else "\n]")
    return tally.unreadable


def _print_csv(rows: Rows, top: int) -> int:
    writer, tally = csv.writer(sys.stdout, lineterminator="\n"), _Tally(rows)
    header: list[list[str]] = [csv_header(top)]
    for row in tally:
        writer.writerows([*header, csv_cells(row, top)])
        header = []
    return tally.unreadable


def _print_lines(rows: Rows) -> int:
    tally = _Tally(rows)
    for row in tally:
        if row.error is not None:
            click.echo(f"{row.file}\tunreadable: {row.error}")
            continue
        label, score = shown(row)
        others = "  ".join(f"{name} {value:.3f}" for name, value in row.top[1:])
        click.echo(f"{row.file}\t{row.column}\t{label}\t{score}" + (f"\t{others}" if others else ""))
    return tally.unreadable
