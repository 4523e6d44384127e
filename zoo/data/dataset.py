"""What the rest of the zoo sees of data: a :class:`Dataset` of :class:`Split`, each a list of samples and targets.

Opening a dataset reads names, sizes and labels, not pixels. Only :attr:`Split.targets` needs torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from zoo_registry.building import Column
from zoo_registry.errors import UsageError, did_you_mean

from zoo.data.decode import BadSample, decode_image, reason_of
from zoo.data.packed import pick

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ["BadSample", "Dataset", "Sample", "Split"]

CACHE_BYTES = 256 * 2**20
"""Decoded pixels that a split keeps in memory, in bytes and per process; what comes later is decoded each time."""


@dataclass(frozen=True)
class Sample:
    """One sample: its id, where its content comes from, and its encoded targets (column -> value)."""

    id: str
    source: Any
    targets: Mapping[str, Any]


@dataclass(eq=False)
class Split:
    """Samples in a fixed order.

    Attributes:
        name: ``train``, ``val``, ``test``, or ``all``.
        ids: unique names: path below the data's root, row of a table, file as given; never absolute unless given so.
        sources: what ``decoder`` understands: a path, bytes, an array, a callable without arguments.
        sizes: bytes of each sample, 0 where unknown.
        columns: the target columns; empty where there are no labels.
        encoded: column name -> numpy array, see :attr:`targets`.
        weights: float64 [N], a weight a sample; None where the data has none.
        decoder: source -> uint8 [H, W, C] for images.
    """

    name: str
    ids: Sequence[str]
    sources: Sequence[Any]
    sizes: Sequence[int]
    columns: tuple[Column, ...] = ()
    encoded: Mapping[str, np.ndarray] = field(default_factory=dict)
    weights: np.ndarray | None = None
    decoder: Callable[[Any], Any] = decode_image
    cache_bytes: int = CACHE_BYTES
    _cache: dict[int, Any] = field(default_factory=dict, repr=False)
    _cached: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Id, source and targets of one sample."""
        return Sample(self.ids[index], self.sources[index], {c: v[index] for c, v in self.encoded.items()})

    def __getstate__(self) -> dict[str, Any]:
        """Without cached pixels and tensors, so that a worker that does not fork starts small."""
        state = {k: v for k, v in self.__dict__.items() if k not in ("targets", "fingerprint")}
        return {**state, "_cache": {}, "_cached": 0}

    def source(self, index: int) -> Any:
        """What the decoder is given; a callable source is called (a dataset that makes its samples itself).

        Raises:
            BadSample: the callable raised.
        """
        source = self.sources[index]
        if not callable(source):
            return source
        try:
            return source()
        except Exception as error:
            raise BadSample(reason_of(error)) from error

    def read(self, index: int) -> Any:
        """The decoded sample, uint8 [H, W, C] for images, in memory of the caller's own.

        The first ``cache_bytes`` of them are remembered.

        Raises:
            BadSample: with the reason.
        """
        if index in self._cache:
            return self._cache[index].copy()
        value = self.decoder(self.source(index))
        size = getattr(value, "nbytes", None)
        if size is not None and self._cached + size <= self.cache_bytes:
            self._cache[index] = value.copy()
            self._cached += size
        return value

    @cached_property
    def targets(self) -> dict[str, Tensor]:
        """Column name -> targets of all samples.

        Classification: int64 [N], -1 where missing. Multilabel: float32 [N, C] of 0/1, NaN where missing.
        Regression: float32 [N], NaN where missing.
        """
        import torch

        return {name: torch.from_numpy(values.copy()) for name, values in self.encoded.items()}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of ids, sizes and targets, in order."""
        lines = (
            "\0".join((i, str(s), *(repr(v[k].tolist()) for v in self.encoded.values())))
            for k, (i, s) in enumerate(zip(self.ids, self.sizes))
        )
        return digest([repr(list(self.encoded)), *lines])

    def class_counts(self, column: str) -> dict[str, int]:
        """Class name -> number of samples, in the order of the label map; missing labels are not counted."""
        import numpy as np

        spec = next(c for c in self.columns if c.name == column)
        values = self.encoded[column]
        if spec.kind == "multilabel":
            counts = np.nansum(values, axis=0).astype(int)
        else:
            counts = np.bincount(values[values >= 0], minlength=len(spec.classes)) if spec.classes else np.zeros(0)
        return {name: int(n) for name, n in zip(spec.classes, counts)}

    def subset(self, indices: Iterable[int]) -> Split:
        """These samples, in this order, as a split of the same name."""
        chosen = list(indices)
        return Split(
            name=self.name,
            ids=pick(self.ids, chosen),
            sources=pick(self.sources, chosen),
            sizes=pick(self.sizes, chosen),
            columns=self.columns,
            encoded={c: v[chosen] for c, v in self.encoded.items()},
            weights=None if self.weights is None else self.weights[chosen],
            decoder=self.decoder,
            cache_bytes=self.cache_bytes,
        )


@dataclass(eq=False)
class Dataset:
    """Opened data.

    Attributes:
        columns: the target columns with their label maps.
        splits: ``train``, ``val``, perhaps ``test``; or the one split that was asked for.
        fingerprint: SHA-256 of all names, sizes and labels, before splits are drawn: equal for equal data, whatever
            the seed, the folder it lies in or the order of the file system. Python objects have labels alone to go by.
        ignored: why or suffix -> number of files left out.
        description: JSON values for ``zoo.json`` and the card; no path of this machine.
        notes: lines that a person should see before training.
        suggested_augment: the augmentation level that suits the data, None where the default does.
    """

    columns: tuple[Column, ...]
    splits: dict[str, Split]
    fingerprint: str
    ignored: dict[str, int] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    suggested_augment: str | None = None

    def split(self, name: str) -> Split:
        """The split called ``name``.

        Raises:
            UsageError: there is none; names those there are.
        """
        if name not in self.splits:
            known = ", ".join(self.splits)
            raise UsageError(f"the data has no split {name!r}, only {known}", hint=did_you_mean(name, self.splits))
        return self.splits[name]

    @property
    def evaluation(self) -> Split:
        """The split that a final evaluation uses: ``test``, else ``val``, else the only one there is."""
        return next((self.splits[n] for n in ("test", "val") if n in self.splits), next(iter(self.splits.values())))


def digest(lines: Iterable[str]) -> str:
    """SHA-256, in hex, of the lines."""
    state = hashlib.sha256()
    for line in lines:
        state.update(line.encode("utf-8", "surrogateescape"))
        state.update(b"\n")
    return state.hexdigest()
