"""A hub that gives what ``zoo.lock`` has and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from zoo_registry.errors import ConflictError, HubError, IntegrityError, UsageError, did_you_mean

from zoo.hub.base import FetchedFile, Hub, Progress, Pulled, Pushed, RepoInfo
from zoo.hub.files import mismatch
from zoo.hub.names import is_sha
from zoo.lock import Entry, Lock, asked_as

log = logging.getLogger("zoo.hub")


class LockedHub:
    """Reading through a lock.

    A branch or tag is looked up first: where it is another commit than the locked one, that is a conflict that names
    both. Where that cannot be found out (offline, the hub is down, the repo is gone), the locked commit is taken from
    where it is to be had. Every file is held to the lock's sha256.

    Args:
        hub: what is read.
        lock: what may be read of it.
    """

    def __init__(self, hub: Hub, lock: Lock) -> None:
        self._hub, self._lock = hub, lock
        self.location = hub.location
        self.cache = getattr(hub, "cache", None)
        self._offline = bool(getattr(hub, "offline", False))

    def info(self, name: str, revision: str | None = None) -> RepoInfo:
        """As :meth:`zoo.hub.base.Hub.info`, of the locked commit."""
        entry = self._entry(name, revision)
        self._check_unmoved(entry, name, revision, self._offline)
        return self._hub.info(name, entry.commit)

    def pull(
        self, name: str, revision: str | None = None, *, offline: bool = False, progress: Progress | None = None
    ) -> Pulled:
        """As :meth:`zoo.hub.base.Hub.pull`, of the locked commit, each file with the lock's sha256."""
        entry = self._entry(name, revision)
        self._check_unmoved(entry, name, revision, offline or self._offline)
        pulled = self._hub.pull(name, entry.commit, offline=offline, progress=progress)
        at = f"{name}@{entry.commit[:7]}"
        for path in sorted(entry.files.keys() | pulled.contents.keys()):
            wanted, found = entry.files.get(path), pulled.contents.get(path)
            if wanted is None or found is None:
                where, other = (self._lock.path, self.location) if found is None else (self.location, self._lock.path)
                raise IntegrityError(f"{at}: {path} stands in {where}, and not in {other}", self._again(name, revision))
            if found.sha256 != wanted.sha256:
                raise mismatch(f"{at}: {path}", wanted.sha256, found.sha256, str(self._lock.path))
        return pulled

    def file(
        self,
        name: str,
        filename: str,
        revision: str | None = None,
        *,
        offline: bool = False,
        sha256: str | None = None,
        progress: Progress | None = None,
    ) -> FetchedFile:
        """As :meth:`zoo.hub.base.Hub.file`, of the locked commit, or the base of a locked delta."""
        base = self._lock.base(name, filename, revision)
        if base is not None:
            commit, locked = base["revision"], base["sha256"]
        else:
            entry = self._entry(name, revision)
            self._check_unmoved(entry, name, revision, offline or self._offline)
            if filename not in entry.files:
                close = did_you_mean(filename, entry.files)
                raise UsageError(
                    f"{self._lock.path} has no {filename!r} of {name}", close or self._again(name, revision)
                )
            commit, locked = entry.commit, str(entry.files[filename].sha256)
        if sha256 is not None and sha256 != locked:
            raise mismatch(f"{name}@{commit[:7]}: {filename}", locked, sha256, str(self._lock.path))
        return self._hub.file(name, filename, commit, offline=offline, sha256=locked, progress=progress)

    def _entry(self, name: str, revision: str | None) -> Entry:
        """What is locked of it.

        Raises:
            ConflictError: this repo is locked at another commit than the one that is asked for.
            UsageError: nothing is.
        """
        found = self._lock.find(name, revision)
        if found is not None:
            return found
        asked, others = asked_as(name, revision), [e for e in self._lock.entries.values() if e.name == name]
        if revision is not None and is_sha(revision) and others:
            raise self._conflict(others[0], revision)
        there = f" (it has {', '.join(e.asked for e in others[:3])})" if others else ""
        raise UsageError(f"{asked} is not in {str(self._lock.path)!r}{there}", self._again(name, revision))

    def _check_unmoved(self, entry: Entry, name: str, revision: str | None, offline: bool) -> None:
        """Raise ConflictError where the branch or tag is another commit by now."""
        if offline or (revision is not None and is_sha(revision) and entry.commit.startswith(revision)):
            return
        try:
            now = self._hub.info(name, revision).revision
        except HubError as error:
            log.warning("%s; whether %s moved is not known, taking the locked commit", error.message, entry.asked)
            return
        if now != entry.commit:
            raise self._conflict(entry, now)

    def _conflict(self, entry: Entry, now: str) -> ConflictError:
        return ConflictError(
            f"{entry.asked} is locked at {entry.commit[:12]}, on {self.location} it is now {now[:12]}",
            f"the locked one: {entry.name}@{entry.commit[:12]}; the new one: zoo pull {entry.asked} --lock",
        )

    def _again(self, name: str, revision: str | None) -> str:
        return f"zoo pull {asked_as(name, revision)} --lock"

    # ------------------------------------------------------------------ what no lock speaks of

    def models(self, pattern: str | None = None) -> list[RepoInfo]:
        """As :meth:`zoo.hub.base.Hub.models`."""
        return self._hub.models(pattern)

    def tags(self, name: str) -> dict[str, str]:
        """As :meth:`zoo.hub.base.Hub.tags`."""
        return self._hub.tags(name)

    def tag(self, name: str, tag: str, revision: str) -> bool:
        """As :meth:`zoo.hub.base.Hub.tag`."""
        return self._hub.tag(name, tag, revision)

    def check_push(self, name: str, *options: Any) -> None:
        """As :meth:`zoo.hub.base.Hub.check_push`."""
        self._hub.check_push(name, *options)

    def push(self, folder: Path, name: str, **options: Any) -> Pushed:
        """As :meth:`zoo.hub.base.Hub.push`."""
        return self._hub.push(folder, name, **options)
