"""What was decoded once is kept: in memory that all workers of a run share, or on the disk for all runs.

Kept are uint8 arrays, either decoded images or the finished pixels of a view that never changes, under a ``kind`` that
says which (``exact``, ``edge336``, a view's ``repr``). A hit gives the bytes that decoding again would give.
"""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from zoo.data.stored import StoredPixels

PATIENCE = 1.0
"""Seconds to wait for another process; only one that was killed at a bad moment holds the lock so long."""
_ENTRY = 5
"""Numbers a sample in a table: 1 + offset, and up to four sizes, 0 where the array has fewer dimensions."""


class Arena:
    """Bytes that this process and those forked from it share; taken from its start to its end, never given back.

    The memory is committed as it is filled, and goes with the last process that has it.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        try:
            self._memory, self.limit = mmap.mmap(-1, max(1, limit)), limit
        except (OSError, ValueError, OverflowError):  # more than the system would ever give
            self._memory, self.limit = mmap.mmap(-1, 1), 0
        self._used = np.frombuffer(mmap.mmap(-1, 8), np.int64)
        self._lock = _shared_lock()
        self._stuck = False

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        return int(self._used[0])

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Alone among all processes; False where the lock cannot be had, then nothing may be done."""
        got = not self._stuck and self._lock.acquire(timeout=PATIENCE)
        self._stuck = not got
        try:
            yield got
        finally:
            if got:
                self._lock.release()

    def take(self, size: int) -> int | None:
        """The offset of ``size`` bytes; None where so many are not left. To be called locked."""
        offset = self.used
        if offset + size > self.limit:
            return None
        self._used[0] = offset + size
        return offset

    def at(self, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        """The uint8 array that lies there."""
        return np.frombuffer(self._memory, np.uint8, math.prod(shape), offset).reshape(shape)


def _shared_lock() -> Any:
    """A lock between processes; one between threads where the system has none."""
    import multiprocessing

    try:
        return multiprocessing.Lock()
    except (ImportError, OSError):
        return threading.Lock()


class Kept:
    """The kept arrays of the samples of one split.

    Args:
        samples: number of samples.
        limit: bytes of memory.
        stored: where they are kept on the disk in place of memory; None keeps them in memory.
    """

    def __init__(self, samples: int, limit: int, stored: StoredPixels | None = None) -> None:
        self.samples = samples
        self.stored = stored
        self._arena = Arena(0 if stored is not None else limit)
        self._tables: dict[str, np.ndarray] = {}

    def open(self, kind: str) -> None:
        """Make room for the entries of a kind; processes forked before this do not see them."""
        if kind not in self._tables and self.stored is None and self._arena.limit:
            memory = mmap.mmap(-1, max(1, self.samples) * _ENTRY * 8)
            self._tables[kind] = np.frombuffer(memory, np.int64).reshape(-1, _ENTRY)

    def get(self, kind: str, index: int, identity: str | None = None) -> np.ndarray | None:
        """The kept array, shared and so only to be read; None where it is not kept.

        Args:
            kind: what the array is.
            index: the sample.
            identity: what tells the sample's content on the disk, None where nothing does.
        """
        if self.stored is not None:
            return self.stored.get(kind, identity) if identity else None
        table = self._tables.get(kind)
        if table is None or not table[index, 0]:
            return None
        with self._arena.locked() as ours:  # the lock orders what another processor wrote
            entry = table[index].tolist() if ours else [0]
        if not entry[0]:
            return None
        return self._arena.at(entry[0] - 1, tuple(size for size in entry[1:] if size))

    def put(self, kind: str, index: int, pixels: Any, identity: str | None = None) -> None:
        """Keep an array, if it is uint8 and there is room."""
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or not 0 < pixels.ndim < _ENTRY:
            return
        if self.stored is not None:
            if identity:
                self.stored.put(kind, identity, pixels)
            return
        self.open(kind)
        table = self._tables.get(kind)
        if table is None or table[index, 0] or self._arena.used + pixels.nbytes > self._arena.limit or not pixels.size:
            return
        with self._arena.locked() as ours:
            offset = self._arena.take(pixels.nbytes) if ours else None
        if offset is None:
            return
        self._arena.at(offset, pixels.shape)[...] = pixels
        with self._arena.locked() as ours:  # the entry after the bytes: whoever sees it finds them whole
            if ours:
                table[index] = [offset + 1, *pixels.shape, *[0] * (_ENTRY - 1 - pixels.ndim)]

    @property
    def mean_bytes(self) -> float:
        """Bytes of memory a kept array, 0 where there is none."""
        count = sum(int(np.count_nonzero(table[:, 0])) for table in self._tables.values())
        return self._arena.used / count if count else 0.0
