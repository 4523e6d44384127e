"""Samples that are passed over together, and the features of one split among them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from zoo.data.bad import BadRow
from zoo.data.dataset import Split
from zoo.evaluation.predictions import pick_features
from zoo.features.keys import sample_hashes
from zoo.features.store import Entry


@dataclass
class Pool:
    """Samples of several splits, in the order of their ids, which no seed changes.

    Attributes:
        split: all of them.
        owners: for each, the name of its split and its index there.
        ids: as its split has them.
    """

    split: Split
    owners: list[tuple[str, int]]
    ids: list[str]
    _hashes: list[bytes] | None = field(default=None, repr=False)
    _hashed: bool = False

    @classmethod
    def of(cls, splits: Iterable[Split]) -> Pool:
        """The samples of these splits, which are decoded alike."""
        parts = list(splits)
        order = sorted((s.ids[i], place, i) for place, s in enumerate(parts) for i in range(len(s)))
        whole = Split(
            name="train",  # of which nothing is kept decoded under the evaluation view, as it is read once
            ids=[str(place) for place in range(len(order))],
            sources=[parts[place].sources[i] for _, place, i in order],
            sizes=[parts[place].sizes[i] for _, place, i in order],
            decoder=parts[0].decoder,
            cache_bytes=0,
        )
        return cls(whole, [(parts[place].name, i) for _, place, i in order], [name for name, _, _ in order])

    def hashes(self) -> list[bytes] | None:
        """sha256 of the content of each, read once; None where they have none."""
        if not self._hashed:
            self._hashes, self._hashed = sample_hashes(self.split), True
        return self._hashes

    def changed_since(self, begun: float) -> bool:
        """Whether a file changed after this time, in seconds since the epoch."""
        return any(_changed(source) > begun for source in self.split.sources if isinstance(source, str | Path))

    def bad_rows(self, entry: Entry) -> list[BadRow]:
        """The unreadable samples of an entry, as their splits name them."""
        return [BadRow(self.owners[place][0], self.ids[place], reason) for place, reason in entry.bad]

    def rows(self, entry: Entry, split: str) -> Rows:
        """The rows of one of the splits."""
        pairs = ((self.owners[place], row) for row, place in enumerate(entry.rows))
        return Rows(entry.features, dict(sorted((index, row) for (name, index), row in pairs if name == split)))


@dataclass(frozen=True)
class Rows:
    """Features of one split.

    Attributes:
        features: [M, ...] of the whole pool; a list of such for a pyramid.
        places: index of each readable sample in its split -> its row, by index.
    """

    features: Any
    places: dict[int, int]

    def picked(self) -> tuple[Any, list[int]]:
        """The split's own rows in data order, and the index of the sample each belongs to."""
        return pick_features(self.features, torch.tensor(list(self.places.values()))), list(self.places)


def _changed(source: str | Path) -> float:
    try:
        return os.stat(source).st_ctime
    except OSError:
        return float("inf")
