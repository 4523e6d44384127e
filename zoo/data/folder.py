"""Folders of class folders, with or without ``train``, ``val`` and ``test`` folders above them.

Class folders stand one level deep; what is nested further down belongs to the class above it. So ``a/cat`` and
``b/cat`` are samples of the classes ``a`` and ``b``, never merged into ``cat``.

Symbolic links are followed within the folder only (never in a circle), or anywhere with ``follow_links``; the others
are counted, like hidden files and files that are not images.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zoo_registry.errors import DataError

from zoo.data.decode import SUFFIXES
from zoo.data.names import listing, natural_key, nfc, refuse_twins, split_name
from zoo.data.records import Records

LAYOUT = "expected FOLDER/CLASS/IMAGE or FOLDER/train/CLASS/IMAGE (and val, test), or give a table (.csv, .parquet)"


class File(NamedTuple):
    """An image file: path, size in bytes."""

    path: str
    size: int


class Scanner:
    """Walks folders under ``root``, counting what it leaves out in ``ignored``."""

    def __init__(self, root: Path, follow_links: bool = False) -> None:
        self.root = os.path.realpath(root)
        self.follow_links = follow_links
        self.ignored: Counter[str] = Counter()
        self._seen: set[str] = set()

    def entries(self, folder: str) -> list[os.DirEntry[str]]:
        """What lies in the folder, hidden entries and refused links left out, in natural order."""
        try:
            with os.scandir(folder) as found:
                verdicts = [(e, self._refusal(e)) for e in found]
        except OSError as error:
            name = os.path.relpath(folder, self.root)
            raise DataError(
                f"folder {name!r} cannot be read: {error.strerror}", hint="check its permissions"
            ) from error
        if folder not in self._seen:  # some folders are looked into twice, and counted once
            self._seen.add(folder)
            self.ignored.update(refusal for _, refusal in verdicts if refusal)
        return sorted((e for e, refusal in verdicts if not refusal), key=lambda e: natural_key(e.name))

    def _refusal(self, entry: os.DirEntry[str]) -> str | None:
        """Why the entry is left out, None where it is wanted."""
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            return "hidden"
        if not entry.is_symlink():
            return None
        target = os.path.realpath(entry.path)
        parent = os.path.realpath(os.path.dirname(entry.path))
        if not os.path.exists(target):
            return "broken link"
        if (parent + os.sep).startswith(target + os.sep):
            return "link in a circle"
        if not self.follow_links and not target.startswith(self.root + os.sep):
            return "link out of the folder"
        return None

    def folders(self, folder: str) -> list[str]:
        """Paths of the folders directly in ``folder``."""
        return [e.path for e in self.entries(folder) if e.is_dir()]

    def images(self, folder: str, above: frozenset[str] = frozenset()) -> Iterator[File]:
        """All images in and below ``folder``, in natural order of their paths; ``above`` are folders being walked."""
        here = os.path.realpath(folder)
        if here in above:
            self.ignored["link in a circle"] += 1
            return
        for entry in self.entries(folder):
            if entry.is_dir():
                yield from self.images(entry.path, above | {here})
            elif not entry.is_file():
                self.ignored["not a regular file"] += 1
            elif (suffix := os.path.splitext(entry.name)[1].lower()) in SUFFIXES:
                yield File(entry.path, entry.stat().st_size)
            else:
                self.ignored[suffix or "no suffix"] += 1

    def loose(self, folder: str) -> int:
        """Number of images directly in ``folder``; other files there are counted as ignored."""
        count = 0
        for entry in self.entries(folder):
            if entry.is_file():
                suffix = os.path.splitext(entry.name)[1].lower()
                count += suffix in SUFFIXES
                if suffix not in SUFFIXES:
                    self.ignored[suffix or "no suffix"] += 1
        return count


def read_folder(root: Path, *, follow_links: bool = False) -> Records:
    """List a folder of class folders.

    Raises:
        DataError: empty, no class folders, two folders for one split, no permission.
    """
    scanner = Scanner(root, follow_links)
    splits = split_folders(scanner, root)
    notes: list[str] = []
    rows: list[tuple[File, str | None, str]] = []
    declared: dict[str, tuple[str, ...]] = {}
    for split, folder in (splits or {"": str(root)}).items():
        classes = scanner.folders(folder)
        refuse_twins([os.path.basename(c) for c in classes])
        if loose := scanner.loose(folder):
            scanner.ignored["image outside of class folders"] += loose
        if split and not classes:
            notes.append(f"{os.path.basename(folder)!r} has no class folders and is left out ({loose} images)")
            continue
        declared[split] = tuple(nfc(os.path.basename(c)) for c in classes)
        rows += [(f, split or None, nfc(os.path.basename(c))) for c in classes for f in scanner.images(c)]
    if not rows:
        raise _nothing(root, scanner)
    start = len(os.path.join(root, ""))
    return Records(
        form="folder",
        name=os.path.basename(os.path.realpath(root)),
        ids=[f.path[start:].replace(os.sep, "/") for f, _, _ in rows],
        sources=[f.path for f, _, _ in rows],
        sizes=[f.size for f, _, _ in rows],
        splits=[s or "" for _, s, _ in rows] if splits else None,
        values={"label": [c for _, _, c in rows]},
        kinds={"label": "classification"},
        declared=declared,
        ignored=dict(sorted(scanner.ignored.items())),
        notes=notes,
    )


def split_folders(scanner: Scanner, root: Path) -> dict[str, str] | None:
    """Split name -> folder, or None where the folders in ``root`` are classes.

    They are splits where each is called like one (beside ``train`` others may stand, they are left out), and
    ``train`` itself has folders in it: a class of trains has only images.
    """
    folders = scanner.folders(str(root))
    named: dict[str, list[str]] = {}
    for folder in folders:
        if split := split_name(os.path.basename(folder)):
            named.setdefault(split, []).append(folder)
    deep = any(scanner.folders(f) for found in named.values() for f in found)
    if not deep or ("train" not in named and len(folders) > sum(map(len, named.values()))):
        return None
    for split, found in named.items():
        if len(found) > 1:
            raise DataError(f"folders {listing(map(os.path.basename, found))} are all {split} splits", hint="keep one")
    for folder in folders:
        if not split_name(os.path.basename(folder)):
            scanner.ignored[f"folder {os.path.basename(folder)!r} beside the splits"] += 1
    return {split: named[split][0] for split in ("train", "val", "test") if split in named}


def _nothing(root: Path, scanner: Scanner) -> DataError:
    """The error for a folder without any sample, as exact as can be."""
    files = [Path(e.path) for e in scanner.entries(str(root)) if e.is_file()]
    loose = sum(f.suffix.lower() in SUFFIXES for f in files)
    tables = [f for f in files if f.suffix in (".csv", ".tsv", ".parquet")]
    links = scanner.ignored["link out of the folder"]
    if loose:
        message = f"{str(root)!r} has no class folders, but {loose} images directly in it"
    elif links:
        message = f"{str(root)!r} has no images but {links} links that lead out of it, which are not followed"
    elif scanner.ignored:
        counts = ", ".join(f"{n} {what}" for what, n in sorted(scanner.ignored.items()))
        message = f"{str(root)!r} has no images to learn from, only {counts}"
    else:
        message = f"{str(root)!r} has no images"
    hint = f"give the table instead: {tables[0]}" if tables else LAYOUT
    return DataError(message, hint="if you trust them: --set data.follow_links=true" if links and not loose else hint)
