"""Two ``zoo.json`` side by side: what the models are made of, recipe, data and metrics. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.bundle.document import Document


@dataclass(frozen=True)
class Change:
    """A value that differs; None where a side does not have it."""

    key: str
    a: Any
    b: Any

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Metric:
    """A metric on both sides; ``change`` is b - a, None where a side does not have it."""

    split: str
    name: str
    a: float | None
    b: float | None

    @property
    def change(self) -> float | None:
        """Of the second against the first."""
        return None if self.a is None or self.b is None else self.b - self.a

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**dataclasses.asdict(self), "change": self.change}


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested values, ``a.b.0`` -> value; a list of plain values is one leaf, an empty one too."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(inner, Mapping | list) for inner in value):
        for number, inner in enumerate(value):
            yield from flat(inner, f"{key}.{number}")
    else:
        yield key, value


def changes(a: Any, b: Any) -> list[Change]:
    """The leaves that differ, in the order of ``a``, then those that ``b`` alone has."""
    left, right = dict(flat(a)), dict(flat(b))
    keys = [*left, *(key for key in right if key not in left)]
    return [Change(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


def parts_of(document: Document) -> dict[str, Any]:
    """What a model is made of and fed with; a column's classes are not listed here, see :func:`class_changes`."""
    row = document.to_json()
    columns = {c.name: {"kind": c.kind, "classes": len(c.classes)} for c in document.columns}
    plugins = {p.distribution: p.version for p in document.plugins}
    named = {key: row[key] for key in ("backbone", "head", "input", "base", "license") if row.get(key)}
    small = {key: row[key] for key in ("adapter",) if row.get(key)}
    return {**named, **small, "columns": columns, "plugins": plugins, "zoo": document.version}


def class_changes(a: Document, b: Document) -> list[Change]:
    """Classes that one side alone has, by column (``a``: lost, ``b``: new); the two orders, where that is all."""
    found = []
    right = {column.name: column.classes for column in b.columns}
    for column in a.columns:
        others = right.get(column.name)
        if others is None or others == column.classes:
            continue
        lost = [c for c in column.classes if c not in set(others)]
        new = [c for c in others if c not in set(column.classes)]
        same = not lost and not new
        key = f"columns.{column.name}.{'order' if same else 'classes'}"
        found.append(Change(key, list(column.classes) if same else lost, list(others) if same else new))
    return found


def metrics_of(a: Document, b: Document) -> list[Metric]:
    """Every metric of every split of either, in the order of ``a``."""
    rows = []
    for split in dict.fromkeys([*a.metrics, *b.metrics]):
        left, right = a.metrics.get(split, {}), b.metrics.get(split, {})
        rows += [Metric(split, n, left.get(n), right.get(n)) for n in dict.fromkeys([*left, *right])]
    return rows
