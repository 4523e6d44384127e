"""Decoded pixels on the disk, for all runs: ``HF_HOME/zoo/decoded/DATA/KIND/ab/NAME``, a file a sample.

DATA says the data's fingerprint and the versions that decode. NAME says the sample's id and what the file system knows
of its file (size, time of modification and of change, inode): a file that is written anew is another sample. A stored
file appears by a rename, whole; its length and CRC-32 are checked when a process first reads it. What is damaged,
removed or not there is decoded again. Folders of other data are removed, the longest unused first, where room is
needed; whoever reads them meanwhile decodes.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import struct
import time
import uuid
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"ZOOPX\0\1\0"
_HEADER = struct.Struct("<8sIIIIQQ")
"""Magic, up to four sizes (0 where there are fewer), CRC-32, bytes of the array."""
STEPS = 32
"""Writes of this share of the limit, after which what others wrote is counted."""
YOUNG = 0.05
"""Seconds: a file changed a moment ago may change again without its times telling."""
USED = "used"


def decoded_folder() -> Path:
    """``HF_HOME/zoo/decoded``."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "zoo" / "decoded"


def decoder_versions() -> str:
    """What decodes and resizes, for the name of a folder."""
    import torch
    from PIL import __version__ as pillow
    from PIL import features

    return f"pillow {pillow} turbo {features.version('libjpeg_turbo')} torch {torch.__version__}"


def file_identity(name: str, path: str | os.PathLike[str]) -> str | None:
    """What tells the content of a file without reading it; None where it cannot be told (no file, changed just now)."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if time.time() - found.st_ctime < YOUNG:
        return None
    text = f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\0{found.st_ino}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


class StoredPixels:
    """The stored arrays of one set of data.

    Args:
        data: what names the data and the decoders, such as a fingerprint with :func:`decoder_versions`.
        limit: bytes that all data may take together.
        root: the folder of all data, :func:`decoded_folder` by default.
    """

    def __init__(self, data: str, limit: int, root: Path | None = None) -> None:
        self.root = root or decoded_folder()
        self.folder = self.root / hashlib.blake2b(data.encode(), digest_size=16).hexdigest()
        self.limit = limit
        self._verified: set[tuple[str, str]] = set()
        self._written = 0
        self._full = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_verified": set()}

    def open(self, needed: int) -> bool:
        """Make room for ``needed`` bytes in all for this data.

        Returns:
            Whether anything can be written here.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / USED).write_bytes(b"")
        except OSError:
            return False
        others = sorted((f for f in self.root.iterdir() if f != self.folder and f.is_dir()), key=_last_used)
        sizes = {folder: folder_bytes(folder) for folder in others}
        for folder in others:
            if sum(sizes.values()) + needed <= self.limit:
                break
            shutil.rmtree(folder, ignore_errors=True)
            sizes.pop(folder)
        self._full = folder_bytes(self.root) >= self.limit
        return True

    def get(self, kind: str, identity: str) -> np.ndarray | None:
        """The stored array, in memory of its own; None where there is none, or it is damaged."""
        path = self._path(kind, identity)
        try:
            with open(path, "rb", buffering=0) as file:
                header = file.read(_HEADER.size)
                magic, *sizes, crc, count = _HEADER.unpack(header)
                shape = tuple(size for size in sizes if size)
                if (
                    magic != MAGIC
                    or math.prod(shape) != count
                    or os.fstat(file.fileno()).st_size != len(header) + count
                ):
                    raise ValueError("damaged")
                pixels = np.empty(shape, np.uint8)
                if file.readinto(pixels.data) != count:
                    raise ValueError("damaged")
        except OSError:
            return None
        except (ValueError, struct.error):
            _remove(path)
            return None
        if (kind, identity) not in self._verified:
            if zlib.crc32(pixels.data) != crc:
                _remove(path)
                return None
            self._verified.add((kind, identity))
        return pixels

    def put(self, kind: str, identity: str, pixels: np.ndarray) -> None:
        """Store an array of up to four dimensions, if there is room; a disk that is full or read-only ends it."""
        if self._full or not pixels.size:
            return
        path = self._path(kind, identity)
        pixels = np.ascontiguousarray(pixels)
        sizes = [*pixels.shape, 0, 0, 0, 0][:4]
        header = _HEADER.pack(MAGIC, *sizes, zlib.crc32(pixels.data), pixels.nbytes)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb", buffering=0) as file:
                whole = file.write(header) == len(header) and file.write(pixels.data) == pixels.nbytes
            if whole:
                os.replace(temporary, path)
        except OSError:
            whole = False
        if not whole:  # no space left: what there is stays
            _remove(temporary)
            self._full = True
            return
        self._written += pixels.nbytes
        if self._written * STEPS > self.limit:
            self._written, self._full = 0, folder_bytes(self.root) >= self.limit

    def _path(self, kind: str, identity: str) -> Path:
        name = kind if kind.isalnum() else hashlib.blake2b(kind.encode(), digest_size=8).hexdigest()
        return self.folder / name / identity[:2] / identity[2:]


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; what goes away meanwhile counts nothing."""
    total = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    total += folder_bytes(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def _last_used(folder: Path) -> float:
    try:
        return (folder / USED).stat().st_mtime
    except OSError:
        return 0.0


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
