"""Cells in worker processes of one CPU thread each; what each gave is written down as it comes."""

from __future__ import annotations

import fcntl
import json
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Task = tuple[Callable[..., Row], tuple[Any, ...], dict[str, Any]]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file of JSON lines; the last, broken line of a killed run is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write all rows anew, in one rename."""
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(part, path)


def measure(tasks: list[Task], path: Path, jobs: int) -> int:
    """Run the tasks, append each row to ``path`` as it comes; returns how many failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    failed, began = 0, time.monotonic()
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # nobody writes the file anew meanwhile
        for done, (row, problem) in enumerate(_results(tasks, jobs), 1):
            if row is None:
                failed += 1
                print(problem, file=sys.stderr, flush=True)
                continue
            file.write(json.dumps(row) + "\n")
            file.flush()
            left = (time.monotonic() - began) / done * (len(tasks) - done)
            shown = {k: v for k, v in row.items() if k in ("task", "way", "starter", "seed", "setting", "all_seconds")}
            accuracy = (row.get("test") or row["val"])["accuracy"]
            print(f"{done}/{len(tasks)} {left / 60:.1f} min left", *shown.values(), accuracy, flush=True)
    return failed


def _results(tasks: list[Task], jobs: int) -> Iterator[tuple[Row | None, str]]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=jobs, mp_context=context, initializer=_quiet) as pool:
        futures = [pool.submit(_guarded, *task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()


def _quiet() -> None:
    """Rows, not notes on their data."""
    logging.getLogger("zoo").setLevel(logging.ERROR)


def _guarded(function: Callable[..., Row], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, str]:
    try:
        return function(*arguments, **keywords), ""
    except Exception:
        named = [getattr(a, "name", a) for a in arguments]
        return None, f"failed: {named} {keywords}\n{traceback.format_exc()}"
