"""The raw form that every data source brings: one entry a sample, labels as they are written in the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from zoo_registry.building import Column
from zoo_registry.errors import DataError, UsageError

from zoo.data.dataset import digest
from zoo.data.decode import decode_image
from zoo.data.names import SPLITS, nfc

Raw = str | float | frozenset[str] | dict[str, float | None] | None
"""A label as read: a class name, a number, the set of names that apply, or name -> 0/1/None; None where missing."""


@dataclass(eq=False)
class Records:
    """Samples as a source lists them.

    Attributes:
        form: ``folder``, ``table``, ``digits``, ``torch`` or ``datasets``.
        name: what to call the data in a card: a leaf name, never a path.
        ids, sources, sizes: see :class:`zoo.data.dataset.Split`.
        splits: ``train``, ``val``, ``test`` for each sample, or None throughout where the source has no splits.
        values: column name -> labels of all samples; empty where the data carries no labels.
        kinds: column name -> kind, where the source knows it.
        classes: column name -> declared classes, for sources that declare them (features).
        declared: split (``""`` where there is none) -> classes that have a folder, where classes are folders. There a
            class without a folder in val or test is an error; elsewhere, a class without a sample is a note.
        weights: a weight for each sample, where the source brings them; they are no part of the fingerprint.
        where: index -> where a person finds the sample (``"line 7"``).
        extra: more for the description.
    """

    form: str
    name: str
    ids: Sequence[str]
    sources: Sequence[Any]
    sizes: Sequence[int]
    splits: Sequence[str] | None
    values: dict[str, Sequence[Raw]]
    kinds: dict[str, str] = field(default_factory=dict)
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    declared: dict[str, tuple[str, ...]] = field(default_factory=dict)
    weights: Sequence[float] | None = None
    decoder: Callable[[Any], Any] = decode_image
    where: Callable[[int], str] | None = None
    ignored: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    suggested_augment: str | None = None

    def place(self, index: int) -> str:
        """Where a person finds the sample: ``line 7`` of a table, else its id."""
        return self.where(index) if self.where else repr(self.ids[index])

    def fingerprint(self) -> str:
        """SHA-256 of ids, sizes, splits and labels, in the order of ids."""
        columns = sorted(self.values)
        order: Sequence[int] = range(len(self.ids))
        if any(before > after for before, after in pairwise(map(nfc, self.ids))):  # mostly they are in order
            order = sorted(order, key=lambda i: nfc(self.ids[i]))
        rows = (
            "\0".join(
                [
                    nfc(self.ids[i]),
                    str(self.sizes[i]),
                    self.splits[i] if self.splits else "",
                    *(_text(self.values[c][i]) for c in columns),
                ]
            )
            for i in order
        )
        return digest(["zoo data 1", *columns, *rows])


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which splits are wanted, and how they are drawn; the attributes are arguments of :func:`zoo.data.open_data`.

    Raises:
        UsageError: a value out of range.
    """

    seed: int = 0
    val_fraction: float = 0.2
    labels: tuple[Column, ...] | None = None
    trained_on: str | None = None
    split: str | None = None
    labels_per_class: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.val_fraction < 1:
            raise UsageError(f"val_fraction={self.val_fraction} is out of range", hint="between 0 and 1, e.g. 0.2")
        if self.split not in (None, "all", *SPLITS):
            raise UsageError(f"unknown split {self.split!r}", hint=f"one of {', '.join(SPLITS)}, all")
        if self.labels_per_class is not None and self.labels_per_class < 1:
            raise UsageError(f"labels_per_class={self.labels_per_class} is out of range", hint="it is 1 or more")


def read_weights(cells: Sequence[Any], column: str, where: Callable[[int], str]) -> list[float]:
    """The cells of a weight column as numbers.

    Raises:
        DataError: a cell that is no finite number from 0 on; says where.
    """
    weights = []
    for index, cell in enumerate(cells):
        try:
            weight = float(cell)
        except (TypeError, ValueError):
            weight = math.nan
        if not 0 <= weight < math.inf:
            what = "nothing" if cell is None else repr(cell)
            raise DataError(
                f"{where(index)}: {what} in column {column!r} is no weight", hint="write a number from 0 on"
            )
        weights.append(weight)
    return weights


def _text(value: Raw) -> str:
    if isinstance(value, frozenset):
        return "{" + "\1".join(sorted(map(nfc, value))) + "}"
    if isinstance(value, dict):
        return repr(sorted(value.items()))
    return nfc(value) if isinstance(value, str) else repr(value)
