"""What the rest of the zoo sees of data: a :class:`Dataset` of :class:`Split`, each a list of samples and targets.

Opening a dataset reads names, sizes and labels, not pixels. Only :attr:`Split.targets` needs torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_registry.building import Column
from zoo_registry.errors import UsageError, did_you_mean

from zoo.data.changes import refusal
from zoo.data.decode import BadSample, decode_image, reason_of
from zoo.data.packed import pick

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from zoo.data.decoded import Kept
    from zoo.data.stored import StoredPixels

__all__ = ["BadSample", "Dataset", "Sample", "Split"]

CACHE_BYTES = 256 * 2**20
"""Decoded pixels that a split keeps in memory, in bytes; what comes later is decoded each time. A run sets its own."""


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
        cache_bytes: how much of what was decoded is kept in memory, which forked workers share; 0 keeps nothing.
        stored: where it is kept on the disk instead.
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
    stored: StoredPixels | None = field(default=None, repr=False)
    _kept: Kept | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Id, source and targets of one sample."""
        return Sample(self.ids[index], self.sources[index], {c: v[index] for c, v in self.encoded.items()})

    def __getstate__(self) -> dict[str, Any]:
        """Without kept pixels and tensors, so that a worker that does not fork starts small, and stays so."""
        state = {k: v for k, v in self.__dict__.items() if k not in ("targets", "fingerprint")}
        return {**state, "_kept": None, "cache_bytes": min(self.cache_bytes, CACHE_BYTES)}

    def source(self, index: int) -> Any:
        """What the decoder is given; a callable source is called (a dataset that makes its samples itself).

        Raises:
            BadSample: the callable raised, or a file has not the size that it was listed with.
        """
        source = self.sources[index]
        if not callable(source):
            if changed := refusal(source, self.sizes[index]):
                raise BadSample(changed)
            return source
        try:
            return source()
        except Exception as error:
            raise BadSample(reason_of(error)) from error

    def read(self, index: int, short_edge: int | None = None) -> Any:
        """The decoded sample, uint8 [H, W, 3] for images, in memory of the caller's own.

        Args:
            index: of the sample.
            short_edge: a large image may come smaller, see :meth:`look`.

        Raises:
            BadSample: with the reason.
        """
        value, shared = self.look(index, short_edge)
        return value.copy() if shared else value

    def look(self, index: int, short_edge: int | None = None, *, keep: bool = True) -> tuple[Any, bool]:
        """The decoded sample, and whether its memory is shared, so that it must not be written to.

        With ``short_edge`` large images come smaller, their short edge never below it: photographs are decoded at
        1/2, 1/4 or 1/8, and what is still more than :data:`zoo.data.geometry.SPARE` times as large is resized to it.
        That depends on the file and on ``short_edge`` alone, not on what is kept.

        Args:
            index: of the sample.
            short_edge: None gives every pixel.
            keep: remember it, as far as there is room.

        Raises:
            BadSample: with the reason.
        """
        kind, identity = self.kind(short_edge), self.identity(index)
        kept = self.kept.get(kind, index, identity)
        if kept is not None:
            return kept, self.stored is None
        value = self._decode(index, short_edge)
        if keep:
            self.kept.put(kind, index, value, identity)
        return value, False

    @staticmethod
    def kind(short_edge: int | None) -> str:
        """What decoded images are kept as."""
        return "exact" if short_edge is None else f"edge{short_edge}"

    def _decode(self, index: int, short_edge: int | None) -> Any:
        source = self.source(index)
        if short_edge is None:
            return self.decoder(source)
        from zoo.data.geometry import shrink

        if self.decoder is decode_image:
            return shrink(decode_image(source, short_edge=short_edge), short_edge)
        return shrink(self.decoder(source), short_edge)

    @property
    def kept(self) -> Kept:
        """What was decoded; made on first use, before that ``cache_bytes`` and ``stored`` may be set."""
        if self._kept is None:
            from zoo.data.decoded import Kept

            self._kept = Kept(len(self), self.cache_bytes, self.stored)
        return self._kept

    def keep_at(self, cache_bytes: int, stored: StoredPixels | None = None) -> None:
        """Keep so much in memory, or on the disk, from now on; what was kept is forgotten."""
        self.cache_bytes, self.stored, self._kept = cache_bytes, stored, None

    def identity(self, index: int) -> str | None:
        """What tells the sample's content on the disk; None where nothing is stored or can tell it."""
        source = self.sources[index] if self.stored is not None else None
        if not isinstance(source, (str, Path)):
            return None
        from zoo.data.stored import file_identity

        return file_identity(self.ids[index], source)

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
            stored=self.stored,
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
