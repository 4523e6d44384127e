"""What a repo or folder may hold before any of it is used: its names together, its sizes, and the heads of its files.

Nothing here reads a file whole or imports torch; what is refused is named with the reason.
"""

from __future__ import annotations

import json
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zoo_registry.errors import IntegrityError

from zoo.hub.base import RepoFile
from zoo.hub.names import check_path

JSON_LIMIT = 32 * 2**20
"""Bytes of a JSON file that is read here."""
OTHER_LIMIT = 256 * 2**20
"""Bytes of any other file but weights: cards, pictures, vocabularies."""
HEADER_LIMIT = 32 * 2**20
"""Bytes of the JSON at the head of a safetensors file; a model of ten thousand tensors has one or two MB."""
MOST_FILES = 10_000
CODE_KEYS = ("auto_map", "custom_pipelines")
"""Keys of a ``*config.json`` by which other libraries are told to import code from the repo."""
_READ = frozenset({"manifest.json", "zoo.json", "config.json"})
_HINT = "do not use this repo"


def size_limit(path: str) -> int | None:
    """The bytes that a file of this name may have; None: as many as there is room for (weights)."""
    if path.endswith(".safetensors"):
        return None
    return JSON_LIMIT if path.rpartition("/")[2] in _READ else OTHER_LIMIT


def check_files(files: Iterable[RepoFile], what: str) -> None:
    """The files of a revision that may be downloaded, all together.

    Raises:
        IntegrityError: one has a name that is no safe path, or is too large for its kind; two have names that one disk
            or another takes for the same; a file is a folder as well; or there are too many.
    """
    seen: dict[str, str] = {}
    for number, file in enumerate(files):
        path, limit = check_path(file.path), size_limit(file.path)
        if number >= MOST_FILES:
            raise IntegrityError(f"{what} has more than {MOST_FILES} files", _HINT)
        if limit is not None and file.size > limit:
            raise IntegrityError(f"{what}: {path} has {file.size} bytes, a file of its kind may have {limit}", _HINT)
        twin = seen.setdefault(_folded(path), path)
        if twin != path:
            raise IntegrityError(f"{what} has both {twin!r} and {path!r}, which some disks cannot tell apart", _HINT)
    for path in seen.values():
        parts = _folded(path).split("/")
        for end in range(1, len(parts)):
            if (parent := seen.get("/".join(parts[:end]))) is not None:
                raise IntegrityError(f"{what}: {parent!r} is a file and the folder of {path!r}", _HINT)


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def read_limited(path: Path, what: str) -> bytes:
    """The bytes of a plain file of at most :data:`JSON_LIMIT`.

    Raises:
        IntegrityError: it is larger, or a pipe or device, which could keep a reader for ever; ``what`` names it.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise IntegrityError(f"{what} is not a plain file", _HINT)
    with path.open("rb") as stream:
        data = stream.read(JSON_LIMIT + 1)
    if len(data) > JSON_LIMIT:
        size = max(found.st_size, len(data))
        raise IntegrityError(f"{what} has {size} bytes, more than JSON of ours may have ({JSON_LIMIT})")
    return data


def check_content(path: Path, name: str, what: str) -> None:
    """The head of a file whose hash is right: a safetensors file is one, a config asks for no code.

    Args:
        path: where it lies.
        name: its path in the repo or bundle.
        what: the repo or bundle, for messages.

    Raises:
        IntegrityError: the file is refused, and why.
    """
    if name.endswith(".safetensors"):
        check_header(path, f"{what}: {name}")
    elif name.endswith("config.json"):
        check_config(path, f"{what}: {name}")


def check_header(path: Path, what: str) -> None:
    """The header's length, which is read before anything is allocated for it.

    Raises:
        IntegrityError: longer than the file or than :data:`HEADER_LIMIT`; ``what`` names it.
    """
    size = path.stat().st_size
    with path.open("rb", buffering=0) as stream:
        head = stream.read(9)
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or length > size - 8 or head[8:] != b"{":
        raise IntegrityError(f"{what} is no safetensors file ({size} bytes, of which {length} for its header)", _HINT)
    if length > HEADER_LIMIT:
        raise IntegrityError(f"{what} has a header of {length} bytes, more than {HEADER_LIMIT}", _HINT)


def check_config(path: Path, what: str) -> None:
    """Refuse a config that asks its reader to run code out of the repo; what is no JSON is left to who reads it.

    Raises:
        IntegrityError: names the key.
    """
    try:
        values: Any = json.loads(read_limited(path, what))
    except (ValueError, RecursionError):
        return
    key = next((k for k in CODE_KEYS if isinstance(values, dict) and values.get(k)), None)
    if key is not None:
        raise IntegrityError(f"{what} asks for code of its own ({key}), which is never run", "a repo that needs none")


def check_links(folder: Path, names: Iterable[str], what: str) -> None:
    """Links in a bundle's folder lead to files within it, or are those of a hub's cache (``snapshots`` to ``blobs``).

    Raises:
        IntegrityError: one leads elsewhere; it is named.
    """
    home = folder.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed += [home.parents[1] / "blobs", home.parents[2] / "blobs"]
    for name in names:
        spot = folder / name
        if not spot.is_symlink() and not any((folder / p).is_symlink() for p in Path(name).parents):
            continue
        try:
            real = spot.resolve(strict=True)
        except (OSError, RuntimeError):  # leads nowhere: missing, as whoever looks for it says
            continue
        if not any(real.is_relative_to(root) for root in allowed):
            raise IntegrityError(f"{what}: {name} is a link that leads out of the folder, and is not read", _HINT)
