"""From listed samples to a dataset: splits drawn, one label map made from train, every split held to it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from zoo_registry.building import Column
from zoo_registry.errors import DataError, UsageError

from zoo.data.dataset import Dataset, Split
from zoo.data.drawing import draw_count, draw_share, strata
from zoo.data.labels import check_splits, columns_of, encode, imbalance_notes, missing_notes
from zoo.data.names import SPLITS, natural_key
from zoo.data.packed import Below, pick
from zoo.data.records import Records, Selection

Indices = Sequence[int]
"""Places of samples; a range or an array, since a list of a million integers takes five times the room."""


def build(records: Records, selection: Selection) -> Dataset:
    """Draw, check and encode what a source has listed.

    Raises:
        UsageError, DataError: see :func:`zoo.data.open_data`.
    """
    fingerprint = records.fingerprint()
    if selection.labels is not None:
        records = _rename_columns(records, selection.labels)
        if records.splits is None and selection.split is None and selection.trained_on not in (None, fingerprint):
            selection = replace(selection, split="all")
    indices, drawn = _split_indices(records, selection)
    columns = _checked_columns(records, selection.labels, indices, drawn)
    if selection.labels_per_class is not None and "train" in indices:
        rows = strata(indices["train"], _group(records)).values()
        kept = draw_count(rows, records.ids, selection.labels_per_class, selection.seed)
        indices["train"] = array("q", (i for i in indices["train"] if i in kept))
        drawn |= {"labels_per_class": selection.labels_per_class, "labels_seed": selection.seed}
    encoded = encode(records, columns)
    wanted = indices if selection.split is None else {selection.split: indices[selection.split]}
    splits = {name: _make_split(records, name, rows, columns, encoded) for name, rows in wanted.items()}
    return Dataset(
        columns=columns,
        splits=splits,
        fingerprint=fingerprint,
        ignored=records.ignored,
        description=_description(records, columns, indices, fingerprint, drawn),
        notes=[*_ignored_note(records), *missing_notes(records), *records.notes, *imbalance_notes(splits.get("train"))],
        suggested_augment=records.suggested_augment,
    )


def _checked_columns(
    records: Records, labels: tuple[Column, ...] | None, indices: Mapping[str, Indices], drawn: Mapping[str, Any]
) -> tuple[Column, ...]:
    """The columns, made from train or given, with every split that the data itself has held to them."""
    given = dict(indices)
    if "val_fraction" in drawn:
        given["train"] = sorted([*given["train"], *given.pop("val")])
    columns = labels if labels is not None else columns_of(records, given.get("train") or given["all"])
    check_splits(records, columns, given, held=labels is not None)
    return columns


def _split_indices(records: Records, selection: Selection) -> tuple[dict[str, Indices], dict[str, Any]]:
    """Split name -> indices, and what the description says of a validation split that was drawn."""
    every: Indices = range(len(records.ids))
    if not _in_order(records.ids):  # a folder mostly is, and the keys of a million names take room
        every = array("q", sorted(every, key=lambda i: natural_key(records.ids[i])))
    if selection.split == "all":
        return {"all": every}, {}
    if records.splits is None:
        found = {"train": every}
    else:
        found = {n: r for n in SPLITS if (r := array("q", (i for i in every if records.splits[i] == n)))}
    known, split = ", ".join(found), selection.split
    if split is not None and split not in found and not (split == "val" and "train" in found):
        raise UsageError(f"the data has no {split} split, only {known}", hint="split 'all' takes every sample")
    if "train" not in found and selection.labels is None:
        raise DataError(f"the data has no train split, only {known}", hint="add one, or give a plain folder")
    if "train" not in found or "val" in found:
        return found, {}
    groups = strata(found["train"], _group(records)).values()
    val = draw_share(groups, records.ids, selection.val_fraction, selection.seed)
    train = found.pop("train")
    parts: dict[str, Indices] = {
        "train": array("q", (i for i in train if i not in val)), "val": array("q", (i for i in train if i in val))
    }  # fmt: skip
    return parts | found, {"val_fraction": selection.val_fraction, "val_seed": selection.seed}


def _in_order(ids: Iterable[str]) -> bool:
    return all(before <= after for before, after in pairwise(map(natural_key, ids)))


def _group(records: Records) -> Callable[[int], Any]:
    """Index -> stratum: the label of the first classification column; one stratum where there is none."""
    name = next((n for n, kind in records.kinds.items() if kind == "classification"), None)
    labels = records.values[name] if name is not None else [None] * len(records.ids)
    return lambda index: labels[index]


def _rename_columns(records: Records, labels: tuple[Column, ...]) -> Records:
    """Match the data's columns with the model's: by name, or one with one.

    Raises:
        DataError: the data lacks a column.
    """
    names, wanted = list(records.values), [c.name for c in labels]
    if len(names) == len(wanted) == 1:
        pairs = {wanted[0]: names[0]}
    elif lost := [n for n in wanted if n not in names]:
        raise DataError(
            f"the data has no column {lost[0]!r}, only {', '.join(names)}", hint=f"the model has {', '.join(wanted)}"
        )
    else:
        pairs = {n: n for n in wanted}
    kinds = {c.name: records.kinds[pairs[c.name]] for c in labels}
    for column in labels:
        if kinds[column.name] != column.kind and column.kind != "regression":
            raise DataError(
                f"column {column.name!r} holds {kinds[column.name]} labels, the model has {column.kind}",
                hint=f"give task={column.kind} if they are meant so",
            )
    return replace(
        records,
        values={n: records.values[o] for n, o in pairs.items()},
        kinds={c.name: c.kind for c in labels},
        classes={n: records.classes[o] for n, o in pairs.items() if o in records.classes},
    )


def _make_split(
    records: Records, name: str, rows: Indices, columns: tuple[Column, ...], encoded: Mapping[str, Any]
) -> Split:
    ids = pick(records.ids, rows)
    return Split(
        name=name,
        ids=ids,
        sources=Below(records.sources.root, ids) if isinstance(records.sources, Below) else pick(records.sources, rows),
        sizes=pick(records.sizes, rows),
        columns=columns,
        encoded={c: values[np.asarray(rows)] for c, values in encoded.items()},
        weights=None if records.weights is None else np.asarray(records.weights, dtype=np.float64)[np.asarray(rows)],
        decoder=records.decoder,
    )


def _description(
    records: Records,
    columns: tuple[Column, ...],
    indices: Mapping[str, Indices],
    fingerprint: str,
    drawn: dict[str, Any],
) -> dict[str, Any]:
    """What ``zoo.json`` and the card say of the data: JSON values, no path."""
    return {
        "form": records.form,
        "name": records.name,
        "fingerprint": fingerprint,
        "samples": {name: len(rows) for name, rows in indices.items()},
        "columns": [{"name": c.name, "kind": c.kind, "classes": list(c.classes)} for c in columns],
        "ignored": dict(records.ignored),
        **drawn,
        **records.extra,
    }


def _ignored_note(records: Records) -> list[str]:
    seen = {what: n for what, n in records.ignored.items() if what != "hidden"}
    if not seen:
        return []
    hint = " (HEIC needs converting to JPEG or PNG first)" if seen.keys() & {".heic", ".heif"} else ""
    return ["ignored: " + ", ".join(f"{n} {what}" for what, n in seen.items()) + hint]
