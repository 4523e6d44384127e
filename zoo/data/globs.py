"""Patterns of file names, walked in natural order: the shell's, for lists too long for a command line."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.data.folder import Scanner

_MAGIC = re.compile(r"[*?\[]")


def is_pattern(text: str) -> bool:
    """Whether the text has ``*``, ``?`` or ``[``."""
    return _MAGIC.search(text) is not None


class Pattern:
    """A pattern such as ``photos/**/*.jpg``; hidden files and folders match nothing.

    Attributes:
        base: the folder above its first part that is a pattern.

    Args:
        text: parts separated by ``/``; ``**`` as a part stands for any number of folders, none included.
    """

    def __init__(self, text: str) -> None:
        parts = os.path.normpath(text).split(os.sep)
        first = next(i for i, part in enumerate(parts) if is_pattern(part))
        self.base = os.sep.join(parts[:first]) or (os.sep if text.startswith(os.sep) else os.curdir)
        self.parts = tuple(parts[first:])
        self._prefix = "" if self.base == os.curdir else os.path.join(self.base, "")
        self._match = {p: re.compile(fnmatch.translate(p)).match for p in self.parts}

    def walk(self, scanner: Scanner) -> Iterator[str]:
        """Paths that match, each once, in natural order; a folder that matches comes as itself.

        Args:
            scanner: of :attr:`base`; it says which entries and links count.
        """
        if os.path.isdir(self.base):
            yield from self._below(scanner, self.base, self._prefix, frozenset([self.parts]), frozenset())

    def _below(
        self, scanner: Scanner, folder: str, prefix: str, rests: frozenset[tuple[str, ...]], above: frozenset[str]
    ) -> Iterator[str]:
        """What matches in a folder; ``rests`` are all the ways in which the parts may go on from here."""
        here = os.path.realpath(folder)
        if here in above:
            return
        names, folders, _ = scanner.entries(folder)
        for name in names:
            after = {left for rest in rests for left in self._after(rest, name)}
            if () in after:  # all of it is matched; a folder gives everything below it
                yield prefix + name
            elif after and name in folders:
                place = os.path.join(folder, name)
                yield from self._below(scanner, place, f"{prefix}{name}{os.sep}", frozenset(after), above | {here})

    def _after(self, rest: tuple[str, ...], name: str) -> Iterator[tuple[str, ...]]:
        """What is left of the parts once this name is matched, in every way there is."""
        if not rest:
            return
        if rest[0] == "**":
            yield rest
            if rest[1:]:
                yield from self._after(rest[1:], name)
            else:
                yield ()
        elif self._match[rest[0]](name):
            yield rest[1:]
