"""The installed distributions that declare entry points, read without :mod:`importlib.metadata`.

Importing that module costs a fifth of the time of ``zoo list``: it brings ``email`` and ``zipfile`` along. What pip
installs is a ``.dist-info`` folder beside the package, and all that is needed of it is two small files. Where anything
else takes part (a zip file on ``sys.path``, a finder that brings distributions of its own) importlib.metadata is asked.

The classes have the names and attributes of importlib.metadata's that the discovery uses, and no others.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_VALUE = re.compile(r"^([\w.]+)\s*(?::\s*([\w.]+))?\s*(?:\[.*\])?$")


@dataclass(frozen=True)
class EntryPoint:
    """One line of ``entry_points.txt``: ``name = value`` in the section ``group``."""

    name: str
    value: str
    group: str
    dist: Distribution

    def load(self) -> Any:
        """Import what ``value`` names, ``module`` or ``module:attribute``.

        Raises:
            ValueError: the value has another form.
            ImportError, AttributeError: there is no such thing; or whatever the module raises.
        """
        match = _VALUE.match(self.value)
        if match is None:
            raise ValueError(f"invalid object reference {self.value!r}")
        found: Any = importlib.import_module(match[1])
        for attribute in match[2].split(".") if match[2] else ():
            found = getattr(found, attribute)
        return found


class Distribution:
    """An installed distribution.

    Args:
        folder: its ``.dist-info`` or ``.egg-info``.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def read_text(self, name: str) -> str | None:
        """The content of one of its files, None where there is none."""
        try:
            with open(os.path.join(self.folder, name), encoding="utf-8") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    @property
    def metadata(self) -> dict[str, str]:
        """The header fields of its metadata; the first of each name counts."""
        text = self.read_text("METADATA") or self.read_text("PKG-INFO") or ""
        fields: dict[str, str] = {}
        for line in text.split("\n\n", 1)[0].splitlines():
            name, colon, value = line.partition(":")
            if colon and not line[0].isspace():
                fields.setdefault(name, value.strip())
        return {name: fields.get(name, "") for name in ("Name", "Version")}

    @property
    def entry_points(self) -> list[EntryPoint]:
        """Its entry points, of all groups.

        Raises:
            ValueError: a line is no ``name = value``, or stands before the first section.
        """
        found, group = [], None
        for raw in (self.read_text("entry_points.txt") or "").splitlines():
            line = raw.strip()
            if not line or line.startswith("#"):
                continue
            if line.startswith("[") and line.endswith("]"):
                group = line[1:-1]
                continue
            name, equals, value = line.partition("=")
            if not equals or group is None:
                raise ValueError(f"{line!r} is no entry point")
            found.append(EntryPoint(name.strip(), value.strip(), group, self))
        return found


def distributions() -> Iterable[Any]:
    """Every installed distribution, in the order of ``sys.path``."""
    if _only_folders():
        return _in_folders()
    import importlib.metadata

    return importlib.metadata.distributions()


def _only_folders() -> bool:
    """Whether folders on ``sys.path`` are all there is."""
    finders = [f for f in sys.meta_path if hasattr(f, "find_distributions")]
    return all(getattr(f, "__name__", "") == "PathFinder" for f in finders) and not any(map(os.path.isfile, sys.path))


def _in_folders() -> Iterator[Distribution]:
    for place in sys.path:
        try:
            names = sorted(os.listdir(place or "."))
        except OSError:
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                yield Distribution(os.path.join(place, name))
