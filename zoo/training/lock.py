"""One process a run folder: ``RUN/.lock`` says who, and the operating system knows whether it still lives."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from zoo_registry import ConflictError

from zoo.runs import LOCK

try:
    import fcntl
except ImportError:  # not on Windows; there the file alone must do
    fcntl = None  # type: ignore[assignment]

_held: set[tuple[int, Path]] = set()


class RunLock:
    """Context that holds a run folder, which must exist.

    The lock is POSIX's on the file, so it ends with the process however that ends, data workers do not inherit it, and
    a lock file that a killed process left behind is taken over. One that another host left is not: whether that
    process lives cannot be seen from here.

    Args:
        folder: the run folder.

    Attributes:
        taken_over: a line that says whose lock was found and taken over; empty where there was none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder.resolve() / LOCK
        self._file: int | None = None
        self.taken_over = ""

    def __enter__(self) -> RunLock:
        """Take the lock.

        Raises:
            ConflictError: another process holds the folder; names its pid and host.
        """
        if (os.getpid(), self.path) in _held:
            raise self._conflict({"pid": os.getpid(), "host": socket.gethostname()})
        while self._file is None:
            self._try()
        _held.add((os.getpid(), self.path))
        return self

    def __exit__(self, *_: object) -> None:
        _held.discard((os.getpid(), self.path))
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def _try(self) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        kept = False
        try:
            free = _lock(descriptor)
            owner = _owner(descriptor)
            if not free or (owner and owner.get("host") != socket.gethostname()):
                raise self._conflict(owner)
            # Whoever held it may have removed the file after it was opened here; then another one counts.
            kept = self.path.exists() and os.fstat(descriptor).st_ino == self.path.stat().st_ino
            if kept:
                if owner:
                    self.taken_over = f"the run's last process, {owner.get('pid', 'unknown')} on this host, is gone"
                _write_owner(descriptor)
                self._file = descriptor
        finally:
            if not kept:
                os.close(descriptor)

    def _conflict(self, owner: dict[str, Any]) -> ConflictError:
        who = f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'an unknown host')}"
        return ConflictError(
            f"the run in {str(self.folder)!r} is in use by {who}",
            hint=f"wait for it; if that process is gone, remove {self.folder / LOCK}",
        )


def _lock(descriptor: int) -> bool:
    """Whether the lock could be taken; where the file system knows no locks, whether the file's process is gone."""
    if fcntl is not None:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            pass
        else:
            return True
    owner = _owner(descriptor)
    return owner.get("host") != socket.gethostname() or not _alive(int(owner.get("pid", 0)))


def _alive(pid: int) -> bool:
    if pid in (0, os.getpid()):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _owner(descriptor: int) -> dict[str, Any]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        found = json.loads(os.read(descriptor, 4096))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write_owner(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
    os.fsync(descriptor)
