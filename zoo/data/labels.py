"""From labels as written to target columns with one label map, and to arrays of integers and floats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from zoo_registry.building import TASKS, Column
from zoo_registry.errors import DataError, UsageError

from zoo.data.dataset import Split
from zoo.data.names import listing, natural_sorted, nfc, refuse_twins
from zoo.data.records import Raw, Records


def columns_of(records: Records, train: Sequence[int]) -> tuple[Column, ...]:
    """The columns and their label maps, made from the ``train`` samples alone, classes in natural order.

    Raises:
        DataError: no label at all, a single class, names that are twins.
    """
    return tuple(_column(records, name, values, train) for name, values in records.values.items())


def _column(records: Records, name: str, values: Sequence[Raw], train: Sequence[int]) -> Column:
    kind = records.kinds[name]
    if kind not in TASKS:
        raise UsageError(f"unknown task {kind!r} of column {name!r}", hint=f"one of {', '.join(TASKS)}")
    present = [values[i] for i in train if values[i] is not None]
    if not present:
        raise DataError(f"column {name!r} has no label in train", hint="check the label and split columns")
    if kind == "regression":
        return Column(name=name, kind=kind)
    counts = Counter(n for value in present for n in _names(value))
    folders = records.declared.get("train") or records.declared.get("") or ()
    known = {*counts, *folders, *records.classes.get(name, ())}
    refuse_twins(known)
    empty = [c for c in natural_sorted(folders) if not counts[c]]
    if empty:
        others = _counted(counts)
        raise DataError(
            f"class {listing(empty)} has no sample in train ({others})", hint="add images or remove the folder"
        )
    if kind == "classification" and len(counts) < 2:
        rows = ", ".join(f"{c!r} with {counts[c]} samples" for c in natural_sorted(counts))
        raise DataError(f"column {name!r} has only one class: {rows}", hint="a classifier needs two classes or more")
    return Column(name=name, kind=kind, classes=tuple(natural_sorted({nfc(c) for c in known})))


def _counted(counts: Mapping[str, int], limit: int = 5) -> str:
    """``'a' has 3, 'b' has 5`` of a few classes, for a message."""
    found = [f"{name!r} has {counts[name]}" for name in natural_sorted(counts)]
    return ", ".join(found[:limit]) + (f" and {len(found) - limit} more" if len(found) > limit else "")


def _names(value: Raw) -> Iterable[str]:
    """The class names that a label speaks of, whether they apply or not."""
    if isinstance(value, (frozenset, dict)):
        return value
    return (str(value),)


def check_splits(
    records: Records, columns: tuple[Column, ...], splits: Mapping[str, Sequence[int]], *, held: bool
) -> None:
    """Hold every split to the label map.

    A class that the map lacks is an error; one without a sample in a split is an error where splits are class folders
    and a note elsewhere. ``held`` says that the map comes from a trained model, and train is held to it too.

    Raises:
        DataError: names the classes and where they are.
    """
    for column in (c for c in columns if c.classes):
        values, known = records.values[column.name], set(column.classes)
        for split, indices in splits.items():
            if split == "train" and not held:
                continue
            found = {nfc(n): i for i in reversed(indices) if values[i] is not None for n in _names(values[i])}
            source = "the model" if held else "train"
            declared = set(records.declared.get(split, records.declared.get("", ())))
            extra = natural_sorted((set(found) | declared) - known)
            missing = natural_sorted(known - set(found) - declared)
            if extra:
                at = f" (first at {records.place(found[extra[0]])})" if extra[0] in found else ""
                lacks = f", and lacks {listing(missing)}" if missing and declared else ""
                raise DataError(
                    f"{split} has the class {listing(extra)} of column {column.name!r}, unknown to {source}{at}{lacks}",
                    hint=f"{source} knows {listing(column.classes, 10)}",
                )
            if missing and column.kind == "classification":
                message = f"{split} has no class {listing(missing)} of column {column.name!r}, which {source} has"
                if declared:
                    raise DataError(message, hint="give every split the same classes; an empty folder leaves one out")
                records.notes.append(message)


def encode(records: Records, columns: tuple[Column, ...]) -> dict[str, np.ndarray]:
    """Arrays for all samples: see :attr:`zoo.data.dataset.Split.targets`.

    Raises:
        DataError: a regression label that is not a finite number; says where.
    """
    makers: dict[str, Callable[[Records, Column], np.ndarray]] = {
        "classification": _integers,
        "multilabel": _multi_hot,
        "regression": _floats,
    }
    return {c.name: makers[c.kind](records, c) for c in columns}


def _integers(records: Records, column: Column) -> np.ndarray:
    index = {name: i for i, name in enumerate(column.classes)}
    values = records.values[column.name]
    # A class outside of the map can only stand in a split that was not asked for; check_splits refuses the others.
    return np.array([-1 if v is None else index.get(nfc(str(v)), -1) for v in values], dtype=np.int64)


def _multi_hot(records: Records, column: Column) -> np.ndarray:
    index = {name: i for i, name in enumerate(column.classes)}
    out = np.full((len(records.ids), len(index)), np.nan, dtype=np.float32)
    for row, value in zip(out, records.values[column.name]):
        if value is None:
            continue
        pairs = value.items() if isinstance(value, dict) else ((n, 1.0) for n in _names(value))
        if not isinstance(value, dict):
            row[:] = 0  # a list names all that apply
        for name, flag in pairs:
            if (place := index.get(nfc(name))) is not None and flag is not None:
                row[place] = flag
    return out


def _floats(records: Records, column: Column) -> np.ndarray:
    out = np.full(len(records.ids), np.nan, dtype=np.float32)
    for i, value in enumerate(records.values[column.name]):
        if value is None:
            continue
        try:
            out[i] = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            out[i] = np.inf
        if not np.isfinite(out[i]):
            raise DataError(
                f"{records.place(i)}: {value!r} in column {column.name!r} is not a finite number",
                hint="regression needs numbers; leave a cell empty where the value is not known",
            )
    return out


def missing_notes(records: Records) -> list[str]:
    """A line a column with labels missing: how many, where first."""
    notes = []
    for name, values in records.values.items():
        blank = [i for i, v in enumerate(values) if v is None]
        if blank:
            first = records.place(blank[0])
            notes.append(f"{len(blank)} of {len(values)} labels missing in {name!r} (first at {first})")
    return notes


IMBALANCE = 20
"""A class with so many times the samples of another is worth a note."""


def imbalance_notes(train: Split | None) -> list[str]:
    """A line a column of which one class has :data:`IMBALANCE` times the samples of another, or more."""
    notes = []
    for column in train.columns if train else ():
        counts = {c: n for c, n in train.class_counts(column.name).items() if n} if train and column.classes else {}
        if counts and max(counts.values()) >= IMBALANCE * min(counts.values()):
            most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
            notes.append(
                f"classes of {column.name!r} are unbalanced: {counts[most]} samples of {most!r}, {counts[least]} of "
                f"{least!r}; look at macro F1 rather than accuracy"
            )
    return notes
