"""``metrics.jsonl``: one JSON object a line, appended as training goes, cut back on resume."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.files import write_bytes


class MetricsLog:
    """The log of a run.

    Args:
        path: the file; None keeps the rows in memory alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.content: list[dict[str, Any]] = []
        self._unsure = False
        if path is not None and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            self.content = [row for line in lines if (row := _parse(line)) is not None]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.content)

    def append(self, row: Mapping[str, Any], *, sync: bool = True) -> None:
        """Add a row; a NaN is written as null. Without ``sync`` it is on disk for sure after :meth:`sync` only."""
        plain = _plain(dict(row))
        self.content.append(plain)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(plain, allow_nan=False) + "\n")
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            self._unsure = not sync

    def sync(self) -> None:
        """Make sure that all rows are on disk."""
        if self._unsure and self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                os.fsync(file.fileno())
            self._unsure = False

    def truncate(self, rows: int) -> None:
        """Forget everything after the first ``rows`` rows."""
        self.content = self.content[:rows]
        if self.path is not None:
            text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.content)
            write_bytes(self.path, text.encode())


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # the last line of a killed process
        return None
    return row if isinstance(row, dict) else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
