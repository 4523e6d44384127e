"""Opening data: from whatever the user names to a checked :class:`~zoo.data.dataset.Dataset`.

Reading lists samples (:class:`~zoo.data.records.Records`); here splits are drawn, the label map is made from train,
every split is held to it, and targets are encoded. No pixel is decoded, torch is not needed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo_registry.building import Column
from zoo_registry.errors import DataError, UsageError, did_you_mean

from zoo.data.dataset import Dataset, Split
from zoo.data.drawing import draw_count, draw_share, strata
from zoo.data.names import natural_key
from zoo.data.records import Records

log = logging.getLogger("zoo.data")

SCHEMES = ("digits",)
TABLES = (".csv", ".tsv", ".parquet")
SPLITS = ("train", "val", "test")
_SCHEME = re.compile(r"^([a-z][a-z0-9+-]+):(.*)$", re.DOTALL)


def open_data(
    data: Any,
    *,
    image_column: str | None = None,
    label_columns: Sequence[str] = (),
    split_column: str | None = None,
    seed: int = 0,
    val_fraction: float = 0.2,
    labels: tuple[Column, ...] | None = None,
    task: str | None = None,
    split: str | None = None,
    labels_per_class: int | None = None,
    follow_links: bool = False,
    check_leaks: bool = True,
) -> Dataset:
    """Open data for training or evaluation.

    Args:
        data: a folder of class folders, a ``.csv``, ``.tsv`` or ``.parquet`` table, ``digits:``, a map-style torch
            dataset of (image, label), a Hugging Face dataset, or a mapping of split names to either of the last two.
        image_column, label_columns, split_column: columns of tables and Hugging Face datasets; found where obvious.
        seed: draws the validation split (where there is none) and ``labels_per_class``.
        val_fraction: share of each class drawn as ``val``, between 0 and 1.
        labels: the columns of a trained model; the data is held to them by name.
        task: ``classification``, ``multilabel`` or ``regression`` for all label columns; None infers it.
        split: open this split alone: ``train``, ``val``, ``test``, or ``all`` for every sample with nothing drawn.
        labels_per_class: keep so many train samples a class (of the first classification column).
        follow_links: follow symbolic links that lead out of a folder.
        check_leaks: look for equal files in train and the other splits, and warn.

    Returns:
        the dataset; notes and warnings are logged to ``zoo.data`` too.

    Raises:
        UsageError: no such path, scheme, column, split, or a value out of range.
        DataError: the data is there but cannot be used.
    """
    if not 0 < val_fraction < 1:
        raise UsageError(f"val_fraction={val_fraction} is out of range", hint="it lies between 0 and 1, e.g. 0.2")
    if split not in (None, "all", *SPLITS):
        raise UsageError(f"unknown split {split!r}", hint=f"one of {', '.join(SPLITS)}, all")
    if labels_per_class is not None and labels_per_class < 1:
        raise UsageError(f"labels_per_class={labels_per_class} is out of range", hint="it is 1 or more")
    if isinstance(data, (str, Path)) and (options := _digits_options(data)) is not None:
        seed, labels_per_class = options.get("seed", seed), options.get("labels", labels_per_class)
    records = read_records(
        data, image_column=image_column, label_columns=tuple(label_columns), split_column=split_column,
        task=task, labels=labels, follow_links=follow_links,
    )  # fmt: skip
    dataset = build(
        records, seed=seed, val_fraction=val_fraction, labels=labels, split=split, labels_per_class=labels_per_class
    )
    if check_leaks and len(dataset.splits) > 1:
        from zoo.data.leaks import leak_notes

        dataset.notes += leak_notes(dataset)
    for note in dataset.notes:
        log.warning(note)
    return dataset


def _digits_options(data: str | Path) -> dict[str, int] | None:
    match = _SCHEME.match(str(data))
    if not match or match[1] != "digits":
        return None
    from zoo.data.digits import parse_options

    return parse_options(match[2])


def read_records(
    data: Any,
    *,
    image_column: str | None,
    label_columns: tuple[str, ...],
    split_column: str | None,
    task: str | None,
    labels: tuple[Column, ...] | None,
    follow_links: bool,
) -> Records:
    """List the samples of any form of data.

    Raises:
        UsageError, DataError: see :func:`open_data`.
    """
    columns = {"image_column": image_column, "label_columns": label_columns, "split_column": split_column}
    if not isinstance(data, (str, Path)):
        from zoo.data.objects import read_object

        return read_object(data, task=task, labels=labels, image_column=image_column, label_columns=label_columns)
    path = Path(data).expanduser()
    suffix = path.suffix.lower()
    if suffix in TABLES and path.is_file():
        from zoo.data.table import read_table

        return read_table(
            path,
            task=task,
            labels=labels,
            image_column=image_column,
            label_columns=label_columns,
            split_column=split_column,
        )
    given = [f"--{name.replace('_columns', '_column').replace('_', '-')}" for name, value in columns.items() if value]
    if given:
        raise UsageError(f"{given[0]} belongs to a table, but {str(data)!r} is none", hint="leave it out")
    if path.is_dir():
        if task not in (None, "classification"):
            raise UsageError(f"class folders carry no {task} targets", hint="give a table: zoo finetune DATA.csv")
        from zoo.data.folder import read_folder

        return read_folder(path, follow_links=follow_links)
    if not path.exists() and (match := _SCHEME.match(str(data))):
        return _read_scheme(match[1], str(data))
    raise _no_data(path)


def _read_scheme(scheme: str, text: str) -> Records:
    if scheme not in SCHEMES:
        hint = did_you_mean(scheme, SCHEMES) or f"known are {', '.join(s + ':' for s in SCHEMES)}, folders and tables"
        raise UsageError(f"no data source {scheme + ':'!r} for {text!r}", hint=hint)
    from zoo.data.digits import read_digits

    return read_digits()


def _no_data(path: Path) -> UsageError:
    """The error for a path that is missing, or of a form that nobody reads."""
    if path.exists():
        return UsageError(f"{str(path)!r} is no folder and no table", hint=f"give a folder or {', '.join(TABLES)}")
    try:
        near = did_you_mean(path.name, sorted(p.name for p in path.parent.iterdir()))
    except OSError:
        near = None
    return UsageError(
        f"no data at {str(path)!r}", hint=near or "give a folder of class folders, a table (.csv, .parquet) or digits:"
    )


def build(
    records: Records,
    *,
    seed: int,
    val_fraction: float,
    labels: tuple[Column, ...] | None,
    split: str | None,
    labels_per_class: int | None,
) -> Dataset:
    """Draw, check and encode what a source has listed."""
    from zoo.data.labels import check_splits, columns_of, encode, missing_note

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
        notes=[*_ignored_note(records), *missing_note(records), *records.notes],
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


def _group(records: Records) -> Any:
    """Index -> stratum: the label of the first classification column; one stratum where there is none."""
    name = next((n for n, kind in records.kinds.items() if kind == "classification"), None)
    return (lambda i: None) if name is None else records.values[name].__getitem__


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
