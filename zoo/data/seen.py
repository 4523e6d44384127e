"""Which names came before, in 16 bytes a name."""

from __future__ import annotations

import hashlib

import numpy as np

_RECENT = 1 << 15


class Seen:
    """A set of texts, by their hash: BLAKE2b with 128 bits, of which no two texts are known to agree.

    The latest hashes lie in a set; sets are sorted into arrays, and arrays of like length merged, so that of n names
    there are about log n arrays to search.
    """

    def __init__(self) -> None:
        self._recent: set[bytes] = set()
        self._older: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._recent) + sum(map(len, self._older))

    def add(self, text: str) -> bool:
        """Take the text in; whether it is new."""
        mark = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if mark in self._recent or any(_holds(array, mark) for array in self._older):
            return False
        self._recent.add(mark)
        if len(self._recent) >= _RECENT:
            self._merge()
        return True

    def _merge(self) -> None:
        marks = np.frombuffer(b"".join(self._recent), dtype="V16").view("S16")
        self._recent = set()
        while self._older and len(self._older[-1]) <= len(marks):
            marks = np.concatenate([self._older.pop(), marks])
        self._older.append(np.sort(marks))


def _holds(array: np.ndarray, mark: bytes) -> bool:
    place = int(np.searchsorted(array, np.bytes_(mark)))
    return place < len(array) and bytes(array[place]) == mark.rstrip(b"\0")
