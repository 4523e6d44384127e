"""Reading tables into text cells: ``.csv`` and ``.tsv`` with the standard library, ``.parquet`` with pyarrow."""

from __future__ import annotations

import codecs
import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_registry.errors import DataError, UsageError

from zoo.data.names import listing


@dataclass(eq=False)
class Cells:
    """A table: columns of cells (stripped text, None where blank; parquet may hold bytes, dicts and lists too).

    ``places`` says for each row where a person finds it: ``line 7``, ``row 6``.
    """

    columns: dict[str, list[Any]]
    places: list[str]


def read_cells(path: Path) -> Cells:
    """Read a table.

    Raises:
        DataError: not text in UTF-8 or UTF-16, a row of another length, no rows; says where.
        UsageError: parquet without pyarrow.
    """
    cells = _parquet(path) if path.suffix.lower() == ".parquet" else _text(path)
    if not cells.places:
        raise DataError(f"{path.name} has no rows", hint="one row a sample, below a header")
    return cells


def _text(path: Path) -> Cells:
    text = _decode(path)
    first = text.partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[str, list[str]]] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(path, header)
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                message = f"{path.name}, line {reader.line_num}: {len(row)} cells, where the header has {len(header)}"
                raise DataError(message, hint=f"cells are separated by {delimiter!r}; quote those that contain it")
            rows.append((f"line {reader.line_num}", row))
    except csv.Error as error:
        raise DataError(f"{path.name}, line {reader.line_num}: {error}", hint="check the quotes") from error
    columns = {name: [row[i].strip() or None for _, row in rows] for i, name in enumerate(header)}
    return Cells(columns, [f"{path.name}, {place}" for place, _ in rows])


def _decode(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror}", hint="check its permissions") from error
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path.name}, line {line}: not {encoding[:6].upper()} text", hint="save it as UTF-8"
        ) from error
    if "\0" in text:
        raise DataError(f"{path.name} is not text: it has NUL characters", hint="save it as UTF-8")
    return text


def _check_header(path: Path, header: list[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if not any(header):
        raise DataError(f"{path.name} has no header", hint="name the columns in the first line: image,label")
    if twice:
        raise DataError(f"{path.name} has two columns named {listing(twice)}", hint="rename one of them")


def _parquet(path: Path) -> Cells:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(f"{path.name} needs pyarrow", hint="pip install pyarrow, or give a .csv table") from error
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path.name} is no parquet file that can be read: {str(error).splitlines()[0]}") from error
    _check_header(path, table.column_names)
    columns = {name: [_cell(v) for v in table.column(name).to_pylist()] for name in table.column_names}
    return Cells(columns, [f"{path.name}, row {i}" for i in range(table.num_rows)])


def _cell(value: Any) -> Any:
    """Numbers and booleans as the text that a CSV file would hold; NaN is blank; bytes, dicts and lists stay."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (int, float)):
        return None if value != value else str(value)
    return (value.strip() or None) if isinstance(value, str) else value
