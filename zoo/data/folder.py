"""Folders of class folders, with or without ``train``, ``val`` and ``test`` folders above them.

Class folders stand one level deep; what is nested further down belongs to the class above it. So ``a/cat`` and
``b/cat`` are samples of the classes ``a`` and ``b``, never merged into ``cat``, and a note says so.

Symbolic links are followed within the folder only (never in a circle), or anywhere with ``follow_links``; the others
are counted, like hidden files and files that are not images.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zoo_registry.errors import DataError

from zoo.data.decode import SUFFIXES
from zoo.data.names import listing, natural_key, natural_sorted, nfc, refuse_twins, split_name
from zoo.data.packed import Below, Packed
from zoo.data.records import Raw, Records
from zoo.data.ticker import Ticker

LAYOUT = "expected FOLDER/CLASS/IMAGE or FOLDER/train/CLASS/IMAGE (and val, test), or give a table (.csv, .parquet)"


class Names(NamedTuple):
    """What lies in a folder: names in natural order, those that are folders, those that are neither that nor a file.

    Names and no ``os.DirEntry``: a folder of a million files is in memory at once.
    """

    names: list[str]
    folders: frozenset[str]
    odd: frozenset[str]


class Scanner:
    """Walks folders under ``root``, counting what it leaves out in ``ignored``.

    ``within`` keeps the names of folders that stand in a folder whose images were asked for, with the names of those.
    """

    def __init__(self, root: Path, follow_links: bool = False, ticker: Ticker | None = None) -> None:
        self.root = os.path.realpath(root)
        self.follow_links = follow_links
        self.ignored: Counter[str] = Counter()
        self.within: dict[str, list[str]] = {}
        self._ticker = ticker
        self._seen: set[str] = set()

    def entries(self, folder: str) -> Names:
        """What lies in the folder, hidden entries and refused links left out."""
        found, refused = Names([], frozenset(), frozenset()), Counter[str]()
        folders: list[str] = []
        odd: list[str] = []
        parent = os.path.realpath(folder)
        if self._ticker is not None:
            self._ticker.look()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if refusal := self._refusal(entry, parent):
                        refused[refusal] += 1
                        continue
                    found.names.append(entry.name)
                    if entry.is_dir():
                        folders.append(entry.name)
                    elif not entry.is_file():
                        odd.append(entry.name)
        except OSError as error:
            name = os.path.relpath(folder, self.root)
            raise DataError(
                f"folder {name!r} cannot be read: {error.strerror}", hint="check its permissions"
            ) from error
        if folder not in self._seen:  # some folders are looked into twice, and counted once
            self._seen.add(folder)
            self.ignored.update(refused)
        found.names.sort(key=natural_key)
        return found._replace(folders=frozenset(folders), odd=frozenset(odd))

    def _refusal(self, entry: os.DirEntry[str], parent: str) -> str | None:
        """Why the entry of the folder whose real path is ``parent`` is left out, None where it is wanted."""
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            return "hidden"
        if not entry.is_symlink():
            return None
        target = os.path.realpath(entry.path)
        if not os.path.exists(target):
            return "broken link"
        if (parent + os.sep).startswith(target + os.sep):
            return "link in a circle"
        if not self.follow_links and not target.startswith(self.root + os.sep):
            return "link out of the folder"
        return None

    def folders(self, folder: str) -> list[str]:
        """Paths of the folders directly in ``folder``."""
        found = self.entries(folder)
        return [os.path.join(folder, name) for name in found.names if name in found.folders]

    def images(self, folder: str, above: frozenset[str] = frozenset()) -> Iterator[str]:
        """Paths of all images in and below ``folder``, in natural order; ``above`` are folders being walked."""
        here = os.path.realpath(folder)
        if here in above:
            self.ignored["link in a circle"] += 1
            return
        names, folders, odd = self.entries(folder)
        for name in names:
            path = os.path.join(folder, name)
            if name in folders:
                if not above:
                    self.within.setdefault(nfc(name), []).append(nfc(os.path.basename(folder)))
                yield from self.images(path, above | {here})
            elif name in odd:
                self.ignored["not a regular file"] += 1
            elif (suffix := os.path.splitext(name)[1].lower()) in SUFFIXES:
                yield path
            else:
                self.ignored[suffix or "no suffix"] += 1

    def loose(self, folder: str) -> int:
        """Number of images directly in ``folder``; other files there are counted as ignored."""
        names, folders, odd = self.entries(folder)
        suffixes = Counter(os.path.splitext(n)[1].lower() for n in names if n not in folders and n not in odd)
        self.ignored.update({s or "no suffix": count for s, count in suffixes.items() if s not in SUFFIXES})
        return sum(count for suffix, count in suffixes.items() if suffix in SUFFIXES)


def read_folder(root: Path, *, follow_links: bool = False) -> Records:
    """List a folder of class folders.

    Raises:
        DataError: empty, no class folders, two folders for one split, no permission.
    """
    ticker = Ticker()
    scanner = Scanner(root, follow_links, ticker)
    splits = split_folders(scanner, root)
    notes: list[str] = []
    ids, sizes = Packed(), array("q")
    marks: list[str] = []
    labels: list[Raw] = []
    declared: dict[str, tuple[str, ...]] = {}
    start = len(os.path.join(root, ""))
    for split, folder in (splits or {"": str(root)}).items():
        classes = scanner.folders(folder)
        refuse_twins([os.path.basename(c) for c in classes])
        if loose := scanner.loose(folder):
            scanner.ignored["image outside of class folders"] += loose
        if split and not classes:
            notes.append(f"{os.path.basename(folder)!r} has no class folders and is left out ({loose} images)")
            continue
        declared[split] = tuple(nfc(os.path.basename(c)) for c in classes)
        for label, place in zip(declared[split], classes):
            for path in scanner.images(place):
                ids.append(path[start:].replace(os.sep, "/"))
                sizes.append(size_of(path))
                ticker.count()
                labels.append(label)
                if splits:
                    marks.append(split)
    if not ids:
        raise _nothing(root, scanner)
    notes += _nested(scanner)
    return Records(
        form="folder",
        name=os.path.basename(os.path.realpath(root)),
        ids=ids,
        sources=Below(root, ids),
        sizes=sizes,
        splits=marks if splits else None,
        values={"label": labels},
        kinds={"label": "classification"},
        declared=declared,
        ignored=dict(sorted(scanner.ignored.items())),
        notes=notes,
    )


def _nested(scanner: Scanner) -> list[str]:
    """A line where one folder name stands in several classes: somebody may have meant it as a class."""
    shared = {name: list(dict.fromkeys(classes)) for name, classes in scanner.within.items()}
    found = natural_sorted(name for name, classes in shared.items() if len(classes) > 1)
    if not found:
        return []
    more = f" (and {len(found) - 1} more such)" if len(found) > 1 else ""
    where = listing(natural_sorted(shared[found[0]]))
    return [f"folder {found[0]!r} stands in the classes {where}: its images belong to them, it is no class{more}"]


def size_of(path: str) -> int:
    """Bytes of a file, 0 where it went away since it was listed: it is reported when it is decoded."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


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
    names, folders, odd = scanner.entries(str(root))
    files = [root / name for name in names if name not in folders and name not in odd]
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
