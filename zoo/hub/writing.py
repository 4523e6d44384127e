"""Writing that survives a crash: every file and folder is flushed before a rename makes it visible."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from zoo.files import sync

_CHUNK = 1 << 20


def copy_hashed(source: Path, target: Path) -> tuple[int, str]:
    """Copy one file, flush it, make it read-only; returns size and sha256 of the bytes that were written.

    The new file is readable for whom the umask allows, whatever the source's mode (safetensors writes 0600).
    """
    digest, size = hashlib.sha256(), 0
    with source.open("rb", buffering=0) as stream, target.open("xb", buffering=0) as out:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            _write_all(out.fileno(), chunk)
        os.fchmod(out.fileno(), stat.S_IMODE(os.fstat(out.fileno()).st_mode) & 0o444)
        os.fsync(out.fileno())
    return size, digest.hexdigest()


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and flush it.

    Raises:
        FileExistsError: there is one already.
    """
    with path.open("xb", buffering=0) as out:
        _write_all(out.fileno(), data)
        os.fsync(out.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries; file systems that cannot are left as they are."""
    with contextlib.suppress(OSError):
        sync(folder)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
