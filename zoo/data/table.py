"""Tables: one row a sample, with an image column, one or several label columns, perhaps a split column.

Paths are relative to the table's folder. Images may also lie in the cells of a parquet file, as bytes or as
``{bytes, path}``, the form in which the Hugging Face Hub keeps them.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo_registry.building import Column
from zoo_registry.errors import DataError, UsageError, did_you_mean

from zoo.data.cells import Cells, read_cells
from zoo.data.decode import SUFFIXES
from zoo.data.kinds import check_task, flags_only, interpret, merge_flags
from zoo.data.names import listing, split_name
from zoo.data.records import Raw, Records, read_weights
from zoo.data.ticker import Ticker

IMAGE_NAMES = ("image", "file", "filename", "file_name", "path", "filepath", "image_path", "img")
LABEL_NAMES = ("label", "labels", "class", "target", "category", "y")
MERGED = "labels"
"""Name of the multilabel column made of several columns of 0 and 1."""


def read_table(
    path: Path,
    *,
    task: str | None = None,
    labels: tuple[Column, ...] | None = None,
    image_column: str | None = None,
    label_columns: Sequence[str] = (),
    split_column: str | None = None,
    weight_column: str | None = None,
) -> Records:
    """List the samples of a table. Columns that are not named are found by :data:`IMAGE_NAMES` and the like.

    A weight column must be named; its cells are numbers from 0 on.

    Raises:
        UsageError: a column that is not there, or that must be named.
        DataError: cells that cannot be used; says the line and the value.
    """
    check_task(task)
    table = read_cells(path)
    image = _image_column(table, image_column)
    split = _named(table, split_column, "split") if split_column else next(
        (c for c in table.columns if c.lower() == "split"), None
    )  # fmt: skip
    weight = _named(table, weight_column, "weight") if weight_column else None
    kinds, values = _labels(table, [image, split, weight], label_columns, labels, task)
    sources, ids, sizes = _images(path.parent, table, image)
    splits = None if split is None else _splits(table, split)
    notes = _repeated(table, ids, values, splits)
    return Records(
        form="table",
        name=path.stem,
        ids=ids,
        sources=sources,
        sizes=sizes,
        splits=splits,
        values=values,
        kinds=kinds,
        weights=None if weight is None else read_weights(table.columns[weight], weight, table.places.__getitem__),
        where=table.places.__getitem__,
        notes=notes,
    )


def _named(table: Cells, name: str, what: str) -> str:
    if name not in table.columns:
        hint = did_you_mean(name, table.columns) or f"it has {', '.join(table.columns)}"
        raise UsageError(f"the table has no {what} column {name!r}", hint=hint)
    return name


def _image_column(table: Cells, given: str | None) -> str:
    if given:
        return _named(table, given, "image")
    lower = {c.lower(): c for c in reversed(table.columns)}
    known = next((lower[n] for n in IMAGE_NAMES if n in lower), None)
    found = known or next((c for c, cells in table.columns.items() if _is_image(cells[0])), None)
    if found is None:
        columns = ", ".join(table.columns)
        raise UsageError(f"which column has the images? The table has {columns}", hint="name it with --image-column")
    return found


def _is_image(cell: Any) -> bool:
    return isinstance(cell, (bytes, dict)) or (isinstance(cell, str) and os.path.splitext(cell)[1].lower() in SUFFIXES)


def _labels(
    table: Cells,
    taken: Sequence[str | None],
    given: Sequence[str],
    model: tuple[Column, ...] | None,
    task: str | None,
) -> tuple[dict[str, str], dict[str, Sequence[Raw]]]:
    """Kind and labels by column name."""
    if model and not given:
        merged = next((c for c in model if c.name not in table.columns and set(c.classes) <= set(table.columns)), None)
        if merged and len(model) == 1 and merged.kind == "multilabel":
            return {merged.name: "multilabel"}, {merged.name: merge_flags(_text(table, merged.classes))}
        given = [c.name for c in model if c.name in table.columns] if len(model) > 1 or _has(table, model) else ()
    columns = _text(table, [_named(table, n, "label") for n in given] or _find_labels(table, taken))
    tasks = {c.name: c.kind for c in model or ()}
    if (
        len(columns) > 1
        and task in (None, "multilabel")
        and not tasks
        and all(_plain(c) and flags_only(c) for c in columns.values())
    ):
        return {MERGED: "multilabel"}, {MERGED: merge_flags(columns)}
    read = {name: _interpret(cells, tasks.get(name, task)) for name, cells in columns.items()}
    return {n: kind for n, (kind, _) in read.items()}, {n: values for n, (_, values) in read.items()}


def _has(table: Cells, model: tuple[Column, ...]) -> bool:
    return any(c.name in table.columns for c in model)


def _find_labels(table: Cells, taken: Sequence[str | None]) -> list[str]:
    left = [c for c in table.columns if c not in taken and c]
    if len(left) == 1:
        return left
    named = [c for c in left if c.lower() in LABEL_NAMES]
    if len(named) == 1:
        return named
    if len(left) > 1 and all(flags_only(table.columns[c]) for c in left if _plain(table.columns[c])):
        return left
    if not left:
        raise DataError("the table has no label column", hint="add one, named 'label'")
    raise UsageError(f"which columns are labels? The table has {', '.join(left)}", hint="name each with --label-column")


def _plain(cells: Sequence[Any]) -> bool:
    return all(c is None or isinstance(c, str) for c in cells)


def _text(table: Cells, names: Sequence[str]) -> dict[str, Sequence[Any]]:
    """The label columns: text, or lists of names (parquet)."""
    found: dict[str, Sequence[Any]] = {name: table.columns[name] for name in names}
    for name, cells in found.items():
        if not _plain([c for c in cells if not isinstance(c, list)]):
            raise DataError(f"column {name!r} holds neither text nor numbers", hint="name another with --label-column")
    return found


def _interpret(cells: Sequence[Any], task: str | None) -> tuple[str, list[Raw]]:
    """As :func:`zoo.data.kinds.interpret`; lists of names are multilabel without any separator."""
    if any(isinstance(c, list) for c in cells):
        return "multilabel", [frozenset(map(str, c)) if isinstance(c, list) else None for c in cells]
    return interpret(cells, task)


def _images(folder: Path, table: Cells, column: str) -> tuple[list[Any], list[str], list[int]]:
    """Sources, ids and sizes.

    Raises:
        DataError: blank cells, files that are missing; the first and how many.
    """
    sources: list[Any] = []
    ids: list[str] = []
    sizes: list[int] = []
    lost: list[str] = []
    source: str | bytes
    ticker = Ticker()
    for place, cell in zip(table.places, table.columns[column]):
        content, name = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if content is None and name is None:
            lost.append(f"{place}: no image")
            continue
        if isinstance(content, bytes):
            source, size, identity = content, len(content), name or place.partition(", ")[2]
        else:
            identity = str(content or name)
            found = _size(folder / identity)
            if found is None:
                lost.append(f"{place}: no file {identity!r}")
                continue
            source, size = str(folder / identity), found
        sources.append(source)
        sizes.append(size)
        ids.append(identity)
        ticker.count()
    if lost:
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise DataError(lost[0] + more, hint="paths in a table are relative to its folder")
    return sources, ids, sizes


def _size(path: Path) -> int | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _splits(table: Cells, column: str) -> list[str]:
    found = []
    for place, cell in zip(table.places, table.columns[column]):
        name = split_name(str(cell or ""))
        if name is None:
            raise DataError(
                f"{place}: {cell or ''!r} in column {column!r} is no split", hint="write train, val or test"
            )
        found.append(name)
    return found


def _repeated(
    table: Cells, ids: list[str], values: dict[str, Sequence[Raw]], splits: Sequence[str] | None
) -> list[str]:
    """Images that stand in several rows: an error where labels or splits differ, else a note; ids become unique."""
    twice = {name for name, count in Counter(ids).items() if count > 1}
    if not twice:
        return []
    first: dict[str, int] = {}
    for index, name in enumerate(list(ids)):
        if name not in twice:
            continue
        before = first.setdefault(name, index)
        if before == index:
            continue
        differs = [c for c, v in values.items() if v[index] != v[before]]
        if differs or (splits is not None and splits[index] != splits[before]):
            what = f"other labels in {listing(differs)}" if differs else "another split"
            place = table.places[before].rpartition(", ")[2]
            raise DataError(f"{table.places[index]}: {name!r} again, with {what} than {place}", hint="keep one of them")
        ids[index] = f"{name}#{table.places[index].rpartition(' ')[2]}"
    return [f"{len(twice)} images stand in more than one row: {listing(sorted(twice), 3)}"]
