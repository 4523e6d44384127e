"""What kind of labels a column of text holds, and what each cell means."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from zoo_registry.building import TASKS
from zoo_registry.errors import UsageError, did_you_mean

from zoo.data.records import Raw

_SEPARATOR = re.compile(r"[;|]")
_FLAGS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}


def check_task(task: str | None) -> None:
    """Refuse a task that no column can have.

    Raises:
        UsageError: naming the tasks there are.
    """
    if task is not None and task not in TASKS:
        hint = did_you_mean(task, TASKS) or f"one of {', '.join(TASKS)}"
        raise UsageError(f"unknown task {task!r}", hint=hint)


def interpret(cells: Sequence[str | None], task: str | None = None) -> tuple[str, list[Raw]]:
    """Kind and labels of a column; blank cells are None.

    Without ``task``: ``;`` or ``|`` in any cell makes it multilabel; numbers of which some are not whole make it
    regression; all else is classification, with the cells as class names (``01`` and ``1`` are two classes).

    A multilabel cell names the classes that apply, all others do not; a lone separator means that none does.
    """
    filled = [c for c in cells if c]
    kind = task or _infer(filled)
    if kind != "multilabel":
        return kind, [c or None for c in cells]
    return kind, [frozenset(n.strip() for n in _SEPARATOR.split(c) if n.strip()) if c else None for c in cells]


def _infer(filled: Sequence[str]) -> str:
    if any(_SEPARATOR.search(c) for c in filled):
        return "multilabel"
    numbers = [number(c) for c in filled]
    if filled and all(n is not None for n in numbers) and any(n != math.floor(n) for n in numbers if n is not None):
        return "regression"
    return "classification"


def number(cell: str) -> float | None:
    """The finite number in a cell, None where there is none."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def flags_only(cells: Sequence[str | None]) -> bool:
    """Whether a column holds nothing but 0, 1, true and false, and at least one of them."""
    return any(cells) and all(c.lower() in _FLAGS for c in cells if c)


def merge_flags(columns: dict[str, Sequence[str | None]]) -> list[Raw]:
    """Columns of 0 and 1, one a class, as one multilabel column; blank means not known for this class."""
    rows: list[Raw] = []
    for cells in zip(*columns.values()):
        flags = {name: _FLAGS[cell.lower()] if cell else None for name, cell in zip(columns, cells)}
        rows.append(None if all(f is None for f in flags.values()) else flags)
    return rows
