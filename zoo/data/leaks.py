"""Equal files in train and in another split make a result look better than it is."""

from __future__ import annotations

import hashlib
from array import array
from pathlib import Path

from zoo.data.dataset import Dataset, Split
from zoo.data.names import listing

MAX_FILES = 20_000
"""Candidates (files of equal size in train and elsewhere) that are looked into; beyond, the check says it stopped."""

_HEAD = 4096


def leak_notes(dataset: Dataset, max_files: int = MAX_FILES) -> list[str]:
    """A line for each split that shares files (equal bytes) with train; empty where there is none.

    Sizes are compared first, then the first 4 KiB, then SHA-256 of everything; only regular files are looked into.
    """
    train = dataset.splits.get("train")
    if train is None:
        return []
    notes = []
    by_size = _rows_by_size(train)
    for name, split in dataset.splits.items():
        if split is train:
            continue
        others = {s: rows for s, rows in _rows_by_size(split).items() if s in by_size}
        shared, stopped = _shared(train, by_size, split, others, max_files)
        if shared:
            pairs = [f"{split.ids[b]} = {train.ids[a]}" for a, b in shared]
            notes.append(f"{len(shared)} of {len(split)} {name} samples are in train too: {listing(pairs, 3)}")
        if stopped:
            notes.append(f"{name} was compared with train only in part: more than {max_files:,} files of equal size")
    return notes


def _rows_by_size(split: Split) -> dict[int, array[int]]:
    found: dict[int, array[int]] = {}
    for index, (source, size) in enumerate(zip(split.sources, split.sizes)):
        if size and isinstance(source, (str, Path)):
            found.setdefault(size, array("q")).append(index)
    return found


def _shared(
    train: Split, of_train: dict[int, array[int]], split: Split, of_split: dict[int, array[int]], max_files: int
) -> tuple[list[tuple[int, int]], bool]:
    """Pairs (index in train, index in the other split) of equal content, and whether the search was cut short."""
    pairs: list[tuple[int, int]] = []
    budget = max_files
    for size, rows in of_split.items():
        budget -= len(rows) + len(of_train[size])
        if budget < 0:
            return pairs, True
        known: dict[bytes, list[tuple[int, str]]] = {}
        for index in of_train[size]:
            path = str(train.sources[index])
            known.setdefault(_read(path, _HEAD), []).append((index, path))
        for index in rows:
            path = str(split.sources[index])
            alike = known.get(_read(path, _HEAD), [])
            mine = _hash(path) if alike else b""
            match = next((i for i, p in alike if mine and _hash(p) == mine), None)
            if match is not None:
                pairs.append((match, index))
    return pairs, False


def _read(path: str, count: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError:
        return path.encode()  # unreadable: equal to nothing here, reported when it is decoded


def _hash(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""
