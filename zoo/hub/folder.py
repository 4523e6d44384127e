"""The embedded hub: a folder, for air-gapped clusters and shared disks. No server, no locks, no links.

Layout::

    ROOT/owner/name/versions/000001/commit.json     the record of one revision: parent, files with sha256, card data
                                   /files/...       its files, as published, read-only
                   /tags/<tag>/tag.json             a name for one revision, set once; see zoo.hub.tags
                   /incoming/<random>/              a revision being written; never read, swept after a day

A revision is written whole into ``incoming``, every file and folder of it flushed to the disk, and then moved by one
``rename`` of the folder to ``versions/<next number>``. That one call publishes it, makes it the head and is the
compare-and-swap: renaming a folder onto one that is not empty fails on every file system, shared ones included, where
advisory locks may silently do nothing. So a killed push leaves a stray folder in ``incoming`` and nothing else, and of
two pushes that began at the same head one wins and the other is told so. A lost answer (a network disk repeats the
call and then reports a failure) is recognised by reading the winner back.

The revision id is made of the content alone: the first 40 hex digits of the sha256 of parent and file table
(:func:`revision_id`). It is computed again on reading, so an edited record is found.

``private`` is recorded but not enforced: who may read is what the disk's permissions say.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_registry.errors import ConflictError, HubError, IntegrityError, did_you_mean

from zoo.hub.base import TAG, FetchedFile, Progress, Pulled, Pushed, RepoFile, RepoInfo
from zoo.hub.contents import check_content, check_files
from zoo.hub.files import (
    MANIFEST,
    check_listed,
    front_matter,
    list_folder,
    mismatch,
    read_json,
    read_manifest,
    sha256_of,
)
from zoo.hub.names import check_name, check_path, check_revision, is_sha
from zoo.hub.tags import check_tag, read_tag, read_tags, write_tag
from zoo.hub.writing import copy_hashed, sync_folder, write_synced

if TYPE_CHECKING:
    from zoo.deadline import Deadline

log = logging.getLogger("zoo.hub")

FORMAT = 1
_HEADS = (None, "main", "latest")
_STRAY_SECONDS = 24 * 3600
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


def revision_id(parent: str | None, files: dict[str, RepoFile]) -> str:
    """The id of a revision: 40 hex digits of the sha256 of its parent's id and its file table."""
    table = [[f.path, f.size, f.sha256] for _, f in sorted(files.items())]
    text = json.dumps({"parent": parent, "files": table}, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


class FolderHub:
    """A hub in a folder; the layout and the promises are in this module's docstring.

    Args:
        root: the hub's folder. A push makes it; everything else wants it to be there.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).expanduser().absolute()
        self.location = str(self.root)
        self._verified: dict[tuple[str, int, int, int], str] = {}

    # ------------------------------------------------------------------ reading

    def info(self, name: str, revision: str | None = None) -> RepoInfo:
        """As :meth:`zoo.hub.base.Hub.info`; a revision is a tag, a commit id or its start, ``main`` is the head."""
        return self._find(name, revision)[0]

    def tags(self, name: str) -> dict[str, str]:
        """As :meth:`zoo.hub.base.Hub.tags`."""
        return read_tags(self._repo(name))

    def models(self, pattern: str | None = None) -> list[RepoInfo]:
        """As :meth:`zoo.hub.base.Hub.models`; reads one small file a repo. A damaged repo is left out."""
        rows = []
        for name in self._names():
            if pattern and not fnmatch.fnmatch(name, pattern if set(pattern) & set("*?[") else f"*{pattern}*"):
                continue
            try:
                info = self._find(name, None)[0]
            except (HubError, IntegrityError) as error:
                log.warning("%s is left out: %s", name, error.message)
                continue
            if TAG in info.tags:
                rows.append(info)
        return sorted(rows, key=lambda info: (info.modified or "", info.name), reverse=True)

    def pull(
        self, name: str, revision: str | None = None, *, offline: bool = False, progress: Progress | None = None
    ) -> Pulled:
        """As :meth:`zoo.hub.base.Hub.pull`: verifies the revision in place and returns the hub's own folder."""
        info, folder = self._find(name, revision)
        check_files(info.files, f"{name}@{info.revision[:7]}")
        done, total = 0, sum(f.size for f in info.files)
        for file in info.files:
            self._verify(folder / file.path, file, f"{name}@{info.revision[:7]}: {file.path}")
            check_content(folder / file.path, file.path, f"{name}@{info.revision[:7]}")
            done += file.size
            if progress:
                progress(file.path, done, total)
        present = {f.path: f for f in info.files}
        extra = sorted(set(self._walk(folder)) - set(present))
        if extra:
            raise IntegrityError(f"{name}@{info.revision[:7]}: {extra[0]} was never published", f"see {folder}")
        if MANIFEST in present:
            check_listed(read_manifest(folder / MANIFEST, name), present, name)
        return Pulled(name=name, revision=info.revision, path=folder, files=tuple(present), contents=present)

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
        """As :meth:`zoo.hub.base.Hub.file`: the hub's own file, verified."""
        info, folder = self._find(name, revision)
        file = next((f for f in info.files if f.path == filename), None)
        if file is None:
            close = did_you_mean(filename, (f.path for f in info.files))
            raise HubError(f"{name}@{info.revision[:7]} has no file {filename!r} on {self.location}", close)
        if sha256 is not None and file.sha256 != sha256:
            raise mismatch(f"{name}@{info.revision[:7]}: {filename}", sha256, file.sha256, "the caller")
        self._verify(folder / filename, file, f"{name}@{info.revision[:7]}: {filename}")
        check_content(folder / filename, filename, f"{name}@{info.revision[:7]}")
        if progress:
            progress(filename, file.size, file.size)
        return FetchedFile(
            path=folder / filename, repo=name, filename=filename, revision=info.revision, sha256=file.sha256 or ""
        )

    # ------------------------------------------------------------------ writing

    def check_push(self, name: str, deadline: Deadline | None = None) -> None:
        """As :meth:`zoo.hub.base.Hub.check_push`: the name is one, and the nearest folder that exists is writable."""
        check_name(name)
        spot = self._repo(name) / "versions"
        while not spot.exists() and spot != spot.parent:
            spot = spot.parent
        if not spot.is_dir() or not os.access(spot, os.W_OK | os.X_OK):
            raise HubError(f"cannot write to {str(spot)!r}", "another --hub folder, or ask whoever owns it for access")

    def push(
        self,
        folder: Path,
        name: str,
        *,
        private: bool = True,
        message: str,
        parent: str | None = None,
        progress: Progress | None = None,
        deadline: Deadline | None = None,
    ) -> Pushed:
        """As :meth:`zoo.hub.base.Hub.push`; published by one rename. It waits for nobody."""
        paths = list_folder(Path(folder))
        self.check_push(name)
        number, head = self._head(name)
        repo = self._repo(name)
        with self._writing(repo) as spot:
            files = _copy_all(Path(folder), spot / "files", paths, progress)
            if MANIFEST in files:
                check_listed(read_manifest(spot / "files" / MANIFEST, str(folder)), files, str(folder))
            before = head["revision"] if head else None
            if head is not None and head["files"] == _table(files):
                return Pushed(name=name, revision=head["revision"], url=str(repo), files=tuple(files), created=False)
            if parent is not None and (before is None or not before.startswith(parent)):
                raise self._moved(name, parent, head)
            record = _record(name, files, before, message, private, spot / "files")
            write_synced(spot / "commit.json", json.dumps(record, indent=1, ensure_ascii=False).encode())
            sync_folder(spot)
            self._publish(spot, repo / "versions" / f"{number + 1:06d}", record)
        return Pushed(name=name, revision=record["revision"], url=str(repo), files=tuple(files))

    def tag(self, name: str, tag: str, revision: str) -> bool:
        """As :meth:`zoo.hub.base.Hub.tag`; set by one rename."""
        found = self._find(name, revision)[0].revision
        return write_tag(self._repo(name), name, check_tag(tag), found)

    def _publish(self, spot: Path, target: Path, record: dict[str, Any]) -> None:
        """The one rename. A failure that turns out to be our own success is none."""
        try:
            os.rename(spot, target)
        except OSError as error:
            winner = self._read(target)
            if winner is None:
                raise
            if winner != record:
                if error.errno not in _TAKEN:
                    raise
                raise self._moved(record["name"], record["parent"], self._head(record["name"])[1]) from error
        sync_folder(target.parent)

    @contextlib.contextmanager
    def _writing(self, repo: Path) -> Iterator[Path]:
        """A fresh folder in ``incoming``, gone afterwards whatever happened; a disk that says no is a HubError."""
        spot = repo / "incoming" / secrets.token_hex(8)
        try:
            (repo / "versions").mkdir(parents=True, exist_ok=True)
            (spot / "files").mkdir(parents=True)
            _sweep(spot.parent)
            yield spot
        except OSError as error:
            reason = error.strerror or str(error)
            raise HubError(f"cannot publish to {str(repo)!r}: {reason}", "nothing was published") from error
        finally:
            shutil.rmtree(spot, ignore_errors=True)

    # ------------------------------------------------------------------ finding

    def _repo(self, name: str) -> Path:
        owner, local = check_name(name)
        return self.root / owner / local

    def _names(self) -> list[str]:
        """All repos with a revision; names that are none of ours are passed over."""
        if not self.root.is_dir():
            raise HubError(f"no hub folder at {self.location!r}", "zoo push makes one; or give another --hub")
        found = (p.parent for p in self.root.glob("*/*/versions"))
        return sorted(f"{p.parent.name}/{p.name}" for p in found if self._numbers(p))

    def _numbers(self, repo: Path) -> list[int]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return sorted((int(n) for n in os.listdir(repo / "versions") if n.isdecimal()), reverse=True)
        return []

    def _read(self, version: Path) -> dict[str, Any] | None:
        """A revision's record as written, or None where there is no such revision."""
        try:
            record = read_json(version / "commit.json", str(version / "commit.json"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            found = record.get("format") if isinstance(record, dict) else None
            raise HubError(f"{str(version)!r} has format {found!r}, this zoo reads {FORMAT}", "upgrade transfer-zoo")
        return record

    def _head(self, name: str) -> tuple[int, dict[str, Any] | None]:
        """The highest number in use (0: none) and its record."""
        repo = self._repo(name)
        numbers = self._numbers(repo)
        return (numbers[0], self._read(repo / "versions" / f"{numbers[0]:06d}")) if numbers else (0, None)

    def _find(self, name: str, revision: str | None) -> tuple[RepoInfo, Path]:
        """The info and the folder of files of one revision."""
        repo = self._repo(name)
        numbers = self._numbers(repo)
        if not numbers:
            raise HubError(f"no repo {name!r} on {self.location}", did_you_mean(name, self._names()))
        if revision not in _HEADS and not is_sha(check_revision(str(revision))):
            revision = read_tag(repo, str(revision)) or revision
            numbers = numbers if is_sha(str(revision)) else []
        for number in numbers:
            version = repo / "versions" / f"{number:06d}"
            record = self._read(version)
            if record is not None and (revision in _HEADS or record["revision"].startswith(revision)):
                return _info(record, repo), version / "files"
        tags = ", ".join(list(read_tags(repo))[-5:])
        known = f"tags: {tags}; " if tags else ""
        raise HubError(
            f"{name!r} has no revision {revision!r} on {self.location}", f"{known}without @revision: the newest"
        )

    def _walk(self, folder: Path) -> Iterator[str]:
        for base, _, names in os.walk(folder):
            yield from ((Path(base) / n).relative_to(folder).as_posix() for n in names)

    def _verify(self, path: Path, file: RepoFile, what: str) -> None:
        """Hash a file, once a process while its stamp stays; links are refused, whatever they point to."""
        if path.is_symlink() or not path.is_file():
            raise IntegrityError(f"{what} is missing, or not a plain file", "publish the bundle again")
        stat = path.stat()
        key = (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
        if key not in self._verified:
            self._verified[key] = sha256_of(path)
        if self._verified[key] != file.sha256:
            raise mismatch(what, file.sha256, self._verified[key], "the hub's record")

    def _moved(self, name: str, parent: str | None, head: dict[str, Any] | None) -> ConflictError:
        was, now = parent[:7] if parent else "nothing", head["revision"][:7] if head else "nothing"
        return ConflictError(
            f"{name!r} changed meanwhile: this push was made on {was}, the head is now {now}",
            f"look at it (zoo show {name}) and push again",
        )


def _copy_all(folder: Path, target: Path, paths: list[str], progress: Progress | None) -> dict[str, RepoFile]:
    """Copy and hash in one pass, so that what is recorded is what was written; folders are flushed last."""
    total = sum((folder / p).stat().st_size for p in paths)
    files, done = {}, 0
    for path in paths:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        size, digest = copy_hashed(folder / path, target / path)
        files[path] = RepoFile(path=path, size=size, sha256=digest)
        done += size
        if progress:
            progress(path, done, total)
    for base, _, _ in os.walk(target, topdown=False):
        sync_folder(Path(base))
    return files


def _table(files: dict[str, RepoFile]) -> dict[str, Any]:
    return {f.path: {"size": f.size, "sha256": f.sha256} for f in files.values()}


def _record(
    name: str, files: dict[str, RepoFile], parent: str | None, message: str, private: bool, folder: Path
) -> dict[str, Any]:
    """What ``commit.json`` holds; ``id`` tells two pushes of the same content apart."""
    card = (folder / "README.md").read_text("utf-8", "replace") if "README.md" in files else ""
    return {
        "format": FORMAT,
        "name": name,
        "revision": revision_id(parent, files),
        "parent": parent,
        "message": message,
        "date": datetime.now(UTC).isoformat(timespec="microseconds"),
        "private": private,
        "id": secrets.token_hex(8),
        "card": front_matter(card),
        "files": _table(files),
    }


def _info(record: dict[str, Any], repo: Path) -> RepoInfo:
    """A record as a RepoInfo, if its id fits its content.

    Raises:
        IntegrityError: it does not, or it names a path that is not safe.
    """
    try:
        rows = {check_path(p): RepoFile(path=p, size=r["size"], sha256=r["sha256"]) for p, r in record["files"].items()}
        intact = revision_id(record["parent"], rows) == record["revision"]
        card = record["card"]
        tags = tuple(str(t) for t in card.get("tags") or ())
        name = f"{repo.parent.name}/{repo.name}"
        fields = {"name": name, "private": bool(record["private"]), "modified": record["date"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"a record of {str(repo)!r} is damaged ({type(error).__name__})") from error
    if not intact:
        raise IntegrityError(f"{name}@{record['revision'][:7]}: the record does not fit its revision id")
    return RepoInfo(
        **fields, revision=record["revision"], files=tuple(rows.values()), tags=tags, url=str(repo), metadata=card
    )


def _sweep(incoming: Path) -> None:
    """Remove what a killed push left behind more than a day ago."""
    for stray in incoming.iterdir():
        with contextlib.suppress(OSError):
            newest = max(p.stat().st_mtime for p in (stray, *stray.rglob("*")))
            if newest < time.time() - _STRAY_SECONDS:
                shutil.rmtree(stray, ignore_errors=True)
