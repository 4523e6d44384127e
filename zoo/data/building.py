"""From listed samples to a dataset: splits drawn, one label map made from train, every split held to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from zoo_registry.building import Column
from zoo_registry.errors import DataError, UsageError

from zoo.data.dataset import Dataset, Split
from zoo.data.drawing import draw_count, draw_share, strata
from zoo.data.labels import check_splits, columns_of, encode, imbalance_notes, missing_notes
from zoo.data.names import SPLITS, natural_key
from zoo.data.records import Records


def build(
    records: Records,
    *,
    seed: int,
    val_fraction: float,
    labels: tuple[Column, ...] | None,
    split: str | None,
    labels_per_class: int | None,
) -> Dataset:
    """Draw, check and encode what a source has listed; the arguments are those of :func:`zoo.data.open_data`.

    Raises:
        UsageError, DataError: see there.
    """
    fingerprint = records.fingerprint()
    if labels is not None:
        records = _rename_column(records, labels)
    drawn: dict[str, Any] = {}
    indices = _split_indices(records, split, labels is not None, seed, val_fraction, drawn)
    given = dict(indices)  # as the data has them, before anything was drawn
    if "val_fraction" in drawn:
        given["train"] = sorted([*given["train"], *given.pop("val")])
    columns = labels if labels is not None else columns_of(records, given.get("train") or given["all"])
    check_splits(records, columns, given, held=labels is not None)
    if labels_per_class is not None and "train" in indices:
        group = _group(records)
        kept = draw_count(strata(indices["train"], group).values(), records.ids, labels_per_class, seed)
        indices["train"] = [i for i in indices["train"] if i in kept]
        drawn |= {"labels_per_class": labels_per_class, "labels_seed": seed}
    encoded = encode(records, columns)
    wanted = indices if split is None else {split: indices[split]}
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


def _split_indices(
    records: Records, split: str | None, given: bool, seed: int, share: float, drawn: dict[str, Any]
) -> dict[str, list[int]]:
    """Split name -> indices; fills ``drawn`` where a validation split was drawn."""
    every = sorted(range(len(records.ids)), key=lambda i: natural_key(records.ids[i]))
    if split == "all":
        return {"all": every}
    if records.splits is None:
        found = {"train": every}
    else:
        found = {n: rows for n in SPLITS if (rows := [i for i in every if records.splits[i] == n])}
    known = ", ".join(found)
    if split is not None and split not in found and not (split == "val" and "train" in found):
        raise UsageError(f"the data has no {split} split, only {known}", hint="split 'all' takes every sample")
    if "train" not in found:
        if given:
            return found
        raise DataError(f"the data has no train split, only {', '.join(found)}", hint="add one, or give a plain folder")
    if "val" not in found:
        val = draw_share(strata(found["train"], _group(records)).values(), records.ids, share, seed)
        drawn |= {"val_fraction": share, "val_seed": seed}
        found = {
            "train": [i for i in found["train"] if i not in val],
            "val": [i for i in found["train"] if i in val],
            **{n: rows for n, rows in found.items() if n == "test"},
        }
    return found


def _group(records: Records) -> Callable[[int], Any]:
    """Index -> stratum: the label of the first classification column; one stratum where there is none."""
    name = next((n for n, kind in records.kinds.items() if kind == "classification"), None)
    labels = records.values[name] if name is not None else [None] * len(records.ids)
    return lambda index: labels[index]


def _rename_column(records: Records, labels: tuple[Column, ...]) -> Records:
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
    records: Records, name: str, rows: list[int], columns: tuple[Column, ...], encoded: Mapping[str, Any]
) -> Split:
    return Split(
        name=name,
        ids=[records.ids[i] for i in rows],
        sources=[records.sources[i] for i in rows],
        sizes=[records.sizes[i] for i in rows],
        columns=columns,
        encoded={c: values[rows] for c, values in encoded.items()},
        decoder=records.decoder,
    )


def _description(
    records: Records,
    columns: tuple[Column, ...],
    indices: Mapping[str, list[int]],
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
