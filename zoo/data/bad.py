"""Samples that cannot be read: counted, listed in ``bad_samples.csv``, never replaced by others."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from zoo_registry.errors import DataError, UsageError


class BadRow(NamedTuple):
    """A sample that could not be read: its split, id and why."""

    split: str
    id: str
    reason: str


class BadSamples:
    """The bad samples met so far, each once, with a limit.

    Args:
        total: number of samples of the data that the limit is a share of.
        max_bad: a share of ``total`` below 1 (rounded down), or a count from 1 on; None for no limit (evaluation).
    """

    def __init__(self, total: int, max_bad: float | None = 0.01) -> None:
        if max_bad is not None and (max_bad < 0 or (max_bad > 1 and max_bad != int(max_bad))):
            raise UsageError(f"max_bad={max_bad} is out of range", hint="a share like 0.01, or a count like 20")
        self.total = total
        self.max_bad = max_bad
        self.allowed = None if max_bad is None else int(max_bad * total) if max_bad < 1 else int(max_bad)
        self._rows: dict[tuple[str, str], BadRow] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> list[BadRow]:
        """The rows, sorted by split and id, so that the order of reading does not show."""
        return sorted(self._rows.values())

    def add(self, rows: Iterable[BadRow]) -> list[BadRow]:
        """Take rows in and return those that are new.

        Raises:
            DataError: now there are more than allowed.
        """
        new = [row for row in dict.fromkeys(rows) if (row.split, row.id) not in self._rows]
        self._rows.update({(row.split, row.id): row for row in new})
        if self.allowed is not None and len(self._rows) > self.allowed:
            first = self.rows[0]
            raise DataError(
                f"{len(self._rows)} of {self.total} samples cannot be read, {self.allowed} are allowed; "
                f"the first is {first.id!r}: {first.reason}",
                hint="repair or remove them, or allow more with --max-bad (a share like 0.05, or a count)",
            )
        return new


def write_bad_samples(path: str | Path, rows: Iterable[BadRow]) -> Path:
    """Write ``split,id,reason`` as UTF-8 CSV, sorted; the file appears whole or not at all."""
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(BadRow._fields)
        writer.writerows(sorted(rows))
    os.replace(partial, target)
    return target
