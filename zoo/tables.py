"""Rows of predictions as CSV, on the standard output or in a file, and as parquet."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from zoo_registry import IntegrityError, UsageError

if TYPE_CHECKING:
    from zoo.prediction import PredictedFile

ABSTAINS = "abstains"
"""Stands in the place of a class where the head does not predict the file; the score is empty."""
GROUP_ROWS = 1 << 16
"""Rows of a group of a parquet file."""


def csv_header(top: int) -> list[str]:
    """Names of the columns of CSV."""
    ranks = [name for k in range(2, top + 1) for name in (f"label_{k}", f"score_{k}")]
    return ["file", "column", "label", "score", *ranks, "error"]


def csv_cells(row: PredictedFile, top: int) -> list[str]:
    """A row of CSV: the label is a class, several joined by ``;``, a number, or :data:`ABSTAINS`."""
    label, score = shown(row)
    more = [cell for name, value in row.top[1:top] for cell in (name, f"{value:.6f}")]
    more += [""] * (2 * (top - 1) - len(more))
    return [row.file, row.column, label, score, *more, row.error or ""]


def shown(row: PredictedFile) -> tuple[str, str]:
    """Label and score as text."""
    if row.value is not None:
        return f"{row.value:.6g}", ""
    if row.labels is not None:
        return ";".join(row.labels), ""
    if row.abstains:
        return ABSTAINS, ""
    return row.label or "", f"{row.score:.6f}" if row.score is not None else ""


class Rows(Protocol):
    """A table that is being written into a folder.

    Args:
        folder: where it lies until it is whole.
        top: classes a file.
        journal: what :meth:`flush` said last; what was written after that is forgotten. None starts a new one.
    """

    def __init__(self, folder: Path, top: int, journal: Any) -> None: ...

    @staticmethod
    def check(name: str) -> None:
        """Raise UsageError where this form cannot be written here."""
        ...

    def write(self, rows: Sequence[PredictedFile]) -> None:
        """Add rows at the end."""
        ...

    def flush(self) -> Any:
        """Put all rows on the disk; what to remember for going on from here, as JSON."""
        ...

    def whole(self) -> Path:
        """All rows, flushed before, as one file in the folder."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class CsvRows:
    """See :class:`Rows`; the journal is the number of bytes."""

    def __init__(self, folder: Path, top: int, journal: Any) -> None:
        self.path, self.top = folder / "rows.csv", top
        have = self.path.stat().st_size if self.path.is_file() else 0
        if journal is not None and (not isinstance(journal, int) or have < journal):
            raise IntegrityError(f"{str(self.path)!r} is shorter than it was", hint="start again with --force")
        self._file = self.path.open("r+b" if journal is not None else "wb", buffering=0)
        self._file.truncate(journal or 0)
        self._file.seek(journal or 0)
        self._size = int(journal or 0)
        if journal is None:
            self._append([csv_header(top)])

    @staticmethod
    def check(name: str) -> None:
        """Nothing is needed."""

    def write(self, rows: Sequence[PredictedFile]) -> None:
        """See :class:`Rows`."""
        self._append([csv_cells(row, self.top) for row in rows])

    def _append(self, rows: Sequence[Sequence[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        content = memoryview(text.getvalue().encode("utf-8", "surrogateescape"))
        end = self._size + len(content)
        while content:
            content = content[self._file.write(content) :]
        self._size = end  # what a failed write left behind it is cut off when the run goes on

    def flush(self) -> int:
        """See :class:`Rows`."""
        os.fsync(self._file.fileno())
        return self._size

    def whole(self) -> Path:
        """See :class:`Rows`."""
        return self.path

    def close(self) -> None:
        """See :class:`Rows`."""
        self._file.close()


class ParquetRows:
    """See :class:`Rows`; each flush writes a part, the journal counts them.

    Columns: ``file column label score label_2 score_2 ... labels value error``, typed; null where there is nothing.
    """

    def __init__(self, folder: Path, top: int, journal: Any) -> None:
        self.folder, self.top = folder, top
        self.parts = int(journal or 0)
        self._rows: list[PredictedFile] = []
        lost = [i for i in range(self.parts) if not self._part(i).is_file()]
        if lost:
            raise IntegrityError(f"{str(self._part(lost[0]))!r} is gone", hint="start again with --force")

    @staticmethod
    def check(name: str) -> None:
        """Raise UsageError without pyarrow."""
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise UsageError(
                f"{name} needs pyarrow", hint="pip install pyarrow, or write a .csv: --out results.csv"
            ) from error

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.parquet"

    def write(self, rows: Sequence[PredictedFile]) -> None:
        """See :class:`Rows`."""
        self._rows += rows

    def flush(self) -> int:
        """See :class:`Rows`."""
        if self._rows:
            from pyarrow import parquet

            path = self._part(self.parts)
            parquet.write_table(self._table(self._rows), path)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            self.parts += 1
            self._rows = []
        return self.parts

    def _table(self, rows: Sequence[PredictedFile]) -> Any:
        import pyarrow

        text, number = pyarrow.string(), pyarrow.float64()
        types = {"file": text, "column": text, "label": text, "score": number}
        types |= {f"{n}_{k}": t for k in range(2, self.top + 1) for n, t in (("label", text), ("score", number))}
        types |= {"labels": pyarrow.list_(text), "value": number, "error": text}
        cells = [_values(row) for row in rows]
        arrays = [pyarrow.array([c.get(name) for c in cells], type=kind) for name, kind in types.items()]
        return pyarrow.table(arrays, schema=pyarrow.schema(list(types.items())))

    def whole(self) -> Path:
        """See :class:`Rows`; groups of equal size, wherever the parts had their borders."""
        from pyarrow import parquet

        path = self.folder / "whole.parquet"
        writer: Any = None
        try:
            for table in self._groups():
                writer = writer or parquet.ParquetWriter(path, table.schema)
                writer.write_table(table, row_group_size=GROUP_ROWS)
        finally:
            if writer is not None:
                writer.close()
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return path

    def _groups(self) -> Iterator[Any]:
        import pyarrow
        from pyarrow import parquet

        left: Any = None
        for number in range(self.parts):
            table = parquet.read_table(self._part(number))
            left = table if left is None else pyarrow.concat_tables([left, table])
            while left.num_rows >= GROUP_ROWS:
                yield left.slice(0, GROUP_ROWS).combine_chunks()
                left = left.slice(GROUP_ROWS)
        if left is not None and left.num_rows:
            yield left.combine_chunks()

    def close(self) -> None:
        """See :class:`Rows`."""


def _values(row: PredictedFile) -> Mapping[str, Any]:
    """Column name -> value of a parquet row."""
    found: dict[str, Any] = {"file": _clean(row.file), "column": row.column, "error": row.error, "value": row.value}
    if row.labels is not None:
        found["labels"] = list(row.labels)
    elif row.label is not None:
        found |= {"label": row.label, "score": row.score}
    for k, (label, score) in enumerate(row.top[1:], start=2):
        found |= {f"label_{k}": label, f"score_{k}": score}
    return found


def _clean(name: str) -> str:
    """A name that is no UTF-8 with its bytes written as escapes: parquet holds text alone."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
