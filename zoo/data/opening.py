"""Opening data: from whatever the user names to a checked :class:`~zoo.data.dataset.Dataset`.

Reading lists samples (:class:`~zoo.data.records.Records`), :mod:`zoo.data.building` makes a dataset of them. No pixel
is decoded, torch is not needed.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo_registry.building import Column
from zoo_registry.errors import DataError, UsageError, did_you_mean

from zoo.data.dataset import Dataset
from zoo.data.records import Records, Selection

log = logging.getLogger("zoo.data")

SCHEMES = ("digits",)
TABLES = (".csv", ".tsv", ".parquet")
_SCHEME = re.compile(r"^([a-z][a-z0-9+-]+):(.*)$", re.DOTALL)


def open_data(
    data: Any,
    *,
    image_column: str | None = None,
    label_columns: Sequence[str] = (),
    split_column: str | None = None,
    weight_column: str | None = None,
    seed: int = 0,
    val_fraction: float = 0.2,
    labels: tuple[Column, ...] | None = None,
    trained_on: str | None = None,
    task: str | None = None,
    split: str | None = None,
    labels_per_class: int | None = None,
    follow_links: bool = False,
    check_leaks: bool = True,
    strict: bool = False,
) -> Dataset:
    """Open data for training or evaluation.

    Args:
        data: a folder of class folders, a ``.csv``, ``.tsv`` or ``.parquet`` table, ``digits:``, a map-style torch
            dataset of (image, label), a Hugging Face dataset, or a mapping of split names to either of the last two.
        image_column, label_columns, split_column: columns of tables and Hugging Face datasets; found where obvious.
        weight_column: column of the same with a weight from 0 on for each sample, for strategies that sample by it.
        seed: draws the validation split (where there is none) and ``labels_per_class``.
        val_fraction: share of each class drawn as ``val``, between 0 and 1.
        labels: the columns of a trained model; the data is held to them by name.
        trained_on: fingerprint of the data that this model saw. Other data that has no splits is opened whole, as the
            split ``all``; the same data has its validation split drawn again.
        task: ``classification``, ``multilabel`` or ``regression`` for all label columns; None infers it.
        split: open this split alone: ``train``, ``val``, ``test``, or ``all`` for every sample with nothing drawn.
        labels_per_class: keep so many train samples a class (of the first classification column).
        follow_links: follow symbolic links that lead out of a folder.
        check_leaks: look for equal files in train and the other splits, and warn.
        strict: refuse data that has such files.

    Returns:
        the dataset; notes and warnings are logged to ``zoo.data`` too.

    Raises:
        UsageError: no such path, scheme, column, split, or a value out of range.
        DataError: the data is there but cannot be used.
    """
    if isinstance(data, (str, Path)) and (options := _digits_options(data)) is not None:
        seed, labels_per_class = options.get("seed", seed), options.get("labels", labels_per_class)
    selection = Selection(
        seed=seed, val_fraction=val_fraction, labels=labels, trained_on=trained_on, split=split,
        labels_per_class=labels_per_class,
    )  # fmt: skip
    records = read_records(
        data, image_column=image_column, label_columns=tuple(label_columns), split_column=split_column,
        weight_column=weight_column, task=task, labels=labels, follow_links=follow_links,
    )  # fmt: skip
    from zoo.data.building import build

    dataset = build(records, selection)
    if check_leaks and len(dataset.splits) > 1:
        from zoo.data.leaks import leak_notes

        leaks = leak_notes(dataset)
        if strict and leaks:
            raise DataError("; ".join(leaks), hint="remove them from one of the two, or leave --strict out")
        dataset.notes += leaks
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
    weight_column: str | None,
    task: str | None,
    labels: tuple[Column, ...] | None,
    follow_links: bool,
) -> Records:
    """List the samples of any form of data.

    Raises:
        UsageError, DataError: see :func:`open_data`.
    """
    columns = {
        "--image-column": image_column,
        "--label-column": label_columns,
        "--split-column": split_column,
        "data.weight_column": weight_column,
    }
    if not isinstance(data, (str, Path)):
        from zoo.data.objects import read_object

        return read_object(
            data, task=task, labels=labels, image_column=image_column, label_columns=label_columns,
            weight_column=weight_column,
        )  # fmt: skip
    path = Path(data).expanduser()
    suffix = path.suffix.lower()
    if suffix in TABLES and os.path.isfile(path):
        from zoo.data.table import read_table

        return read_table(
            path,
            task=task,
            labels=labels,
            image_column=image_column,
            label_columns=label_columns,
            split_column=split_column,
            weight_column=weight_column,
        )
    scheme = None if os.path.exists(path) else _SCHEME.match(str(data))
    if not os.path.isdir(path) and scheme is None:
        raise _no_data(path)
    given = [name for name, value in columns.items() if value]
    if given:
        raise UsageError(f"{given[0]} belongs to a table, but {str(data)!r} is none", hint="leave it out")
    if task not in (None, "classification"):
        raise UsageError(f"{str(data)!r} carries no {task} targets", hint="give a table: zoo finetune DATA.csv")
    if scheme is not None:
        return _read_scheme(scheme[1], str(data))
    from zoo.data.folder import read_folder

    return read_folder(path, follow_links=follow_links)


def _read_scheme(scheme: str, text: str) -> Records:
    if scheme not in SCHEMES:
        hint = did_you_mean(scheme, SCHEMES) or f"known are {', '.join(s + ':' for s in SCHEMES)}, folders and tables"
        raise UsageError(f"no data source {scheme + ':'!r} for {text!r}", hint=hint)
    from zoo.data.digits import read_digits

    return read_digits()


def _no_data(path: Path) -> UsageError:
    """The error for a path that is missing, or of a form that nobody reads."""
    if os.path.exists(path):
        return UsageError(f"{str(path)!r} is no folder and no table", hint=f"give a folder or {', '.join(TABLES)}")
    try:
        near = did_you_mean(path.name, sorted(p.name for p in path.parent.iterdir()))
    except OSError:
        near = None
    return UsageError(
        f"no data at {str(path)!r}", hint=near or "give a folder of class folders, a table (.csv, .parquet) or digits:"
    )
