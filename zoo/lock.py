"""``zoo.lock``: which commit each model and each backbone's weights must come from, and the sha256 of every file.

``zoo pull NAME --lock`` writes an entry. With ``--locked`` (in Python ``with only_locked():``) nothing else is taken
from any hub in this process: see :class:`zoo.hub.locked.LockedHub`. The file is meant to be committed beside the code;
it names no hub and no path, for a commit and its hashes are the same wherever they lie.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo_registry.errors import ConflictError, IntegrityError, UsageError, ZooError

from zoo.files import write_json
from zoo.hub.base import RepoFile
from zoo.hub.files import read_json
from zoo.hub.names import check_path, is_sha, split_revision

log = logging.getLogger("zoo.hub")

FORMAT = 1
NAME = "zoo.lock"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATIENCE = 10.0
"""Seconds to wait for another process that writes the lock; one that takes longer is taken for dead."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is locked of one repo.

    Attributes:
        asked: ``owner/name`` or ``owner/name@revision``, as it was asked for.
        commit: the full commit id.
        files: path -> size and sha256 of every file that a pull takes.
        base: of a delta, the one weights file that it is made whole from (kind ``hub``: repo, file, revision, sha256).
    """

    asked: str
    commit: str
    files: Mapping[str, RepoFile]
    base: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        """``owner/name``."""
        return self.asked.partition("@")[0]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        files = {path: {"sha256": f.sha256, "size": f.size} for path, f in sorted(self.files.items())}
        return {"commit": self.commit, **({"base": dict(self.base)} if self.base else {}), "files": files}


@dataclass(frozen=True)
class Lock:
    """The content of a ``zoo.lock``.

    Attributes:
        path: the file.
        entries: by what was asked for.
    """

    path: Path
    entries: Mapping[str, Entry] = field(default_factory=dict)

    def find(self, name: str, revision: str | None) -> Entry | None:
        """The entry of a repo: as it is asked for, or one of this commit."""
        found = self.entries.get(asked_as(name, revision))
        if found is None and revision is not None and is_sha(revision):
            same = (e for e in self.entries.values() if e.name == name)
            found = next((e for e in same if e.commit.startswith(revision)), None)
        return found

    def base(self, name: str, filename: str, revision: str | None) -> Mapping[str, str] | None:
        """The weights file of a locked delta, if this is one."""
        wanted = {"repo": name, "file": filename, "revision": revision}
        bases = (e.base for e in self.entries.values() if e.base)
        return next((b for b in bases if all(b.get(k) == v for k, v in wanted.items())), None)


def asked_as(name: str, revision: str | None) -> str:
    """The key of an entry: ``main`` is what a name without a revision means."""
    return name if revision in (None, "main") else f"{name}@{revision}"


def lock_path() -> Path:
    """``zoo.lock`` of the working folder, or the file that ``ZOO_LOCK`` names."""
    return Path(os.environ.get("ZOO_LOCK") or NAME)


def read_lock(path: Path | None = None) -> Lock:
    """Read and check a lock.

    Raises:
        UsageError: there is none.
        IntegrityError: it is not of the form that :func:`write_entry` makes; the entry is named.
    """
    path = path or lock_path()
    if not path.is_file():
        raise UsageError(f"there is no {str(path)!r}", hint="zoo pull OWNER/NAME --lock writes it")
    values = read_json(path, str(path))
    if not isinstance(values, dict) or values.get("format") != FORMAT or not isinstance(values.get("models"), dict):
        found = values.get("format") if isinstance(values, dict) else None
        raise IntegrityError(
            f"{str(path)!r} has format {found!r}, this zoo reads {FORMAT}", hint="pip install -U transfer-zoo"
        )
    return Lock(path, {asked: _entry(asked, row, path) for asked, row in values["models"].items()})


def _entry(asked: str, row: Any, path: Path) -> Entry:
    wrong = IntegrityError(
        f"{str(path)!r}: the entry of {asked!r:.80} is damaged", hint="zoo pull it again with --lock"
    )
    try:
        split_revision(asked)
        files = {
            check_path(p): RepoFile(path=p, size=int(f["size"]), sha256=str(f["sha256"]))
            for p, f in row["files"].items()
        }
        entry = Entry(asked=asked, commit=str(row["commit"]), files=files, base=row.get("base"))
    except (KeyError, TypeError, ValueError, AttributeError, ZooError) as error:
        raise wrong from error
    fine = _COMMIT.fullmatch(entry.commit) and all(_SHA256.fullmatch(f.sha256 or "") for f in files.values())
    base = entry.base
    if base is not None and not (isinstance(base, dict) and all(isinstance(v, str) for v in base.values())):
        fine = None
    if not fine:
        raise wrong
    return entry


def write_entry(entry: Entry, path: Path | None = None) -> Entry | None:
    """Put an entry into the lock, whole or not at all; other entries stay. Returns the one that it replaced.

    Raises:
        IntegrityError: the lock that is there is damaged.
        ConflictError: another process does not let go of it.
    """
    path = path or lock_path()
    with _alone(path):
        before = dict(read_lock(path).entries) if path.is_file() else {}
        old = before.get(entry.asked)
        rows = {asked: e.to_json() for asked, e in sorted((before | {entry.asked: entry}).items())}
        if old is None or old.to_json() != entry.to_json():
            write_json(path, {"format": FORMAT, "models": rows})
    return old


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One writer at a time, by a file that only one process can make; a dead writer's is taken away."""
    busy = path.with_name(f".{path.name}.busy")
    until = time.monotonic() + 3 * _PATIENCE
    while True:
        try:
            os.close(os.open(busy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            break
        except FileExistsError:
            with contextlib.suppress(OSError):
                if time.time() - busy.stat().st_mtime > _PATIENCE:
                    busy.unlink()
                    continue
        if time.monotonic() > until:
            raise ConflictError(f"another process writes {str(path)!r}", hint=f"wait for it, or remove {str(busy)!r}")
        time.sleep(0.02)
    try:
        yield
    finally:
        busy.unlink(missing_ok=True)


def note_difference(name: str, revision: str | None, commit: str) -> None:
    """Say so where ``zoo.lock`` has this model at another commit; a lock that cannot be read is said too."""
    path = lock_path()
    if not path.is_file() or active() is not None:
        return
    try:
        entry = read_lock(path).entries.get(asked_as(name, revision))
    except ZooError as error:
        log.warning("%s", error.message)
        return
    if entry is not None and entry.commit != commit:
        log.warning(
            "%s has %s at %s, this is %s (--lock takes it into the lock, --locked refuses it)",
            path, entry.asked, entry.commit[:12], commit[:12],
        )  # fmt: skip


_active: list[Lock] = []  # of the whole process: what another thread opens is held to it too


def active() -> Lock | None:
    """The lock that hubs are held to at present, or None."""
    return _active[-1] if _active else None


@contextlib.contextmanager
def only_locked(path: str | Path | None = None) -> Iterator[Lock]:
    """While this lasts, no hub gives anything but what the lock has; for all threads of the process.

    Args:
        path: the lock; ``zoo.lock`` of the working folder by default.

    Raises:
        UsageError: there is none.
        IntegrityError: it is damaged.
    """
    lock = read_lock(Path(path) if path is not None else None)
    _active.append(lock)
    try:
        yield lock
    finally:
        _active.remove(lock)
