"""Data that changes under a run: what is noted of it at the start, and what is said of the difference.

The listing holds a line a sample: split, size in bytes, a hash of its labels, id; tabs between them, gzip around them.
Content of the same size is not compared: reading a million images to see that nothing changed would cost more than most
runs. A file that was written after the run started is named instead.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.files import write_bytes

if TYPE_CHECKING:
    from zoo.data.dataset import Dataset

Listing = Mapping[str, tuple[str, int, str]]
"""Id of a sample -> split, size in bytes (0: unknown), hash of its labels."""


def list_samples(data: Dataset) -> dict[str, tuple[str, int, str]]:
    """What is noted of every sample of the data."""
    return {name: (split, size, labels) for split, size, labels, name in _rows(data)}


def write_listing(path: Path, data: Dataset) -> None:
    """Write the listing, whole or not at all."""
    lines = (f"{split}\t{size}\t{labels}\t{_escaped(name)}\n" for split, size, labels, name in _rows(data))
    content = "".join(lines).encode("utf-8", "surrogateescape")
    write_bytes(path, gzip.compress(content, compresslevel=1, mtime=0))


def read_listing(path: Path) -> Listing:
    """Read it.

    Raises:
        OSError, EOFError, ValueError: it is missing or damaged.
    """
    found = {}
    for line in gzip.decompress(path.read_bytes()).decode("utf-8", "surrogateescape").split("\n")[:-1]:
        split, size, labels, name = line.split("\t")
        found[_plain(name)] = (split, int(size), labels)
    return found


def describe_changes(before: Listing, now: Listing) -> str:
    """What differs, each kind with its number and its first sample; empty where nothing that was noted does."""
    both = [name for name in before if name in now]
    moved = [name for name in both if before[name][0] != now[name][0]]
    kinds = {
        "gone": [name for name in before if name not in now],
        "new": [name for name in now if name not in before],
        "of another size": [name for name in both if before[name][1] != now[name][1]],
        "with other labels": [name for name in both if before[name][2] != now[name][2]],
    }
    if not any(kinds.values()):  # otherwise the splits are drawn anew, and that says nothing
        kinds["in another split"] = moved
    return ", ".join(f"{len(names)} {kind} ({_shown(min(names))})" for kind, names in kinds.items() if names)


def written_since(data: Dataset, moment: float) -> list[str]:
    """Ids of the samples whose files were written after ``moment`` (seconds since 1970)."""
    found = []
    for split in data.splits.values():
        for name, source in zip(split.ids, split.sources, strict=True):
            if isinstance(source, str | Path):
                try:
                    late = os.stat(source).st_mtime > moment
                except OSError:  # gone meanwhile; reading it will say so
                    continue
                if late:
                    found.append(name)
    return found


def refusal(source: object, size: int) -> str | None:
    """Why a file is not what was listed, None where it has the size that it had, or none is known."""
    if not size or not isinstance(source, str | Path):
        return None
    try:
        now = os.stat(source).st_size
    except OSError:  # the decoder will say it
        return None
    return None if now == size else f"changed under the run: {size} bytes when it was listed, now {now}"


def _rows(data: Dataset) -> Iterator[tuple[str, int, str, str]]:
    for name, split in data.splits.items():
        columns = list(split.encoded.values())
        for index, (sample, size) in enumerate(zip(split.ids, split.sizes, strict=True)):
            labels = repr([values[index].tolist() for values in columns])
            yield name, int(size), hashlib.sha256(labels.encode()).hexdigest()[:12], sample


def _escaped(name: str) -> str:
    return name.replace("%", "%25").replace("\t", "%09").replace("\n", "%0A")


def _plain(name: str) -> str:
    return name.replace("%0A", "\n").replace("%09", "\t").replace("%25", "%")


def _shown(name: str) -> str:
    return repr(name) if len(name) < 80 else repr(f"...{name[-76:]}")
