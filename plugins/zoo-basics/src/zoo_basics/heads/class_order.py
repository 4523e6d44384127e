"""From lowest to highest: the order of class names, as numbers say it or as the user does."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from zoo_registry import Column, UsageError

_DIGITS = re.compile(r"\d+")


def class_order(column: Column, given: Sequence[str] = ()) -> list[int]:
    """Numbers of the column's classes, lowest class first.

    Where nothing is given: names that are numbers go by value (``-2 < 9 < 10``); names that differ in whole numbers
    alone (``grade 2``, ``grade 10``; ``0-9``, ``10-19``) by these, the first one first. Words say nothing of an order.

    Args:
        column: its label map.
        given: class names, lowest first; of several columns one behind the other.

    Raises:
        UsageError: a class is not among those given, stands there twice, or nothing is given and names do not tell.
    """
    if given:
        return _as_given(column, list(given))
    numbers = [_number(name) for name in column.classes]
    if None not in numbers and len(set(numbers)) == len(numbers):
        return _sorted_by(numbers)
    frames = {_DIGITS.sub("0", name) for name in column.classes}
    inner = [tuple(map(int, _DIGITS.findall(name))) for name in column.classes]
    if len(frames) == 1 and len(set(inner)) == len(inner):
        return _sorted_by(inner)
    names = ", ".join(map(repr, column.classes[:5])) + (", ..." if len(column.classes) > 5 else "")
    raise UsageError(
        f"head ordinal cannot tell the order of the classes {names} of column {column.name!r}",
        hint="say it, lowest first: --set head.order=" + ",".join(column.classes[:5]),
    )


def _as_given(column: Column, given: list[str]) -> list[int]:
    missing = [name for name in column.classes if name not in given]
    twice = [name for name in column.classes if given.count(name) > 1]
    if missing or twice:
        what = f"lacks {missing[0]!r}" if missing else f"names {twice[0]!r} twice"
        raise UsageError(
            f"head ordinal: the order given for column {column.name!r} {what}",
            hint="name each class once, lowest first: --set head.order=" + ",".join(column.classes[:5]),
        )
    return [column.classes.index(name) for name in given if name in column.classes]


def _number(name: str) -> float | None:
    try:
        value = float(name)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _sorted_by(keys: Sequence[object]) -> list[int]:
    return sorted(range(len(keys)), key=keys.__getitem__)  # type: ignore[arg-type]
