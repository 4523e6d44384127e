"""Lists of a million names in a tenth of the memory of a list of strings.

They also stay where they are: a worker process that was forked shares them, where reading a list of strings would copy
its pages one by one (each object holds its own reference count).
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload


class Packed(Sequence[str]):
    """Names one behind the other in one buffer, read like a list; only :meth:`append` changes it.

    Args:
        names: what it holds.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._text = bytearray()
        self._ends = array("q", [0])
        for name in names:
            self.append(name)

    def append(self, name: str) -> None:
        """Add a name at the end."""
        self._text += name.encode("utf-8", "surrogatepass")  # a name that is no UTF-8 came with surrogates
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Packed: ...
    def __getitem__(self, index: int | slice) -> str | Packed:
        """A name, or a list of names."""
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        ends = self._ends
        place = index if index >= 0 else index + len(ends) - 1
        if place < 0:
            raise IndexError(f"no name {index} of {len(self)}")
        return self._text[ends[place] : ends[place + 1]].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        text, start = self._text, 0
        for end in self._ends[1:]:
            yield text[start:end].decode("utf-8", "surrogatepass")
            start = end

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Packed):
            return self._text == other._text and self._ends == other._ends
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self[:3])!r}{', ...' if len(self) > 3 else ''}, {len(self)} names)"

    def take(self, indices: Iterable[int]) -> Packed:
        """These names, in this order."""
        return Packed(map(self.__getitem__, indices))


class Below(Sequence[str]):
    """Paths of files below a folder, put together when they are asked for.

    Args:
        root: the folder.
        names: paths relative to it, parts separated by ``/``; names are never changed.
    """

    def __init__(self, root: str | Path, names: Sequence[str]) -> None:
        self.root = os.path.join(root, "")
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Below: ...
    def __getitem__(self, index: int | slice) -> str | Below:
        """A path, or a list of paths."""
        if isinstance(index, slice):
            return Below(self.root, self.names[index])
        return self._path(self.names[index])

    def _path(self, name: str) -> str:
        return self.root + (name if os.sep == "/" else name.replace("/", os.sep))

    def __iter__(self) -> Iterator[str]:
        return map(self._path, self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]


def pick(values: Sequence[Any], indices: Sequence[int]) -> Sequence[Any]:
    """These of the values, in this order, held as compactly as they were."""
    if isinstance(values, Packed):
        return values.take(indices)
    if isinstance(values, Below):
        return Below(values.root, pick(values.names, indices))
    if isinstance(values, array):
        return array(values.typecode, map(values.__getitem__, indices))
    return [values[i] for i in indices]
