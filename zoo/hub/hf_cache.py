"""The local side of the Hugging Face Hub: its shared cache, read without a request and never trusted.

huggingface_hub keeps ``models--owner--name/{refs,blobs,snapshots}``; a blob is named by the hub's hash of it (sha256 of
large files, git's id of small ones), but nothing there ever checks the bytes. Beside them this module keeps
``zoo/<commit>.json``: the hub's own list of a revision's files, with hashes, written after a complete download. It is
what makes a copy known to be complete, and verifiable, without a network. A file whose bytes are wrong is moved to
``zoo/damaged`` (quarantine: nobody finds it under its name any more) and removed a day later.

Many processes may use one cache. Nothing here relies on a lock: a file appears by one rename and is never written
again, and what is taken out is checked to be the very file that was found damaged.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from zoo_registry.errors import HubError, IntegrityError

from zoo.hub.base import RepoFile, RepoInfo
from zoo.hub.files import git_sha1_of, read_json, sha256_of

HEAD = "main"
STRAY_SECONDS = 24 * 3600
_FULL = 40
Stamp = tuple[int, int, int]


class Cache:
    """The cache under one folder, None: ``HF_HUB_CACHE``."""

    def __init__(self, folder: Path | str | None = None) -> None:
        if folder is None:
            from huggingface_hub import constants

            folder = constants.HF_HUB_CACHE
        self.folder = Path(folder).expanduser().absolute()
        self._hashes: dict[tuple[str, Stamp, bool], str] = {}
        self._damaged: dict[str, Stamp] = {}

    def repo(self, name: str) -> Path:
        """The folder of a repo, there or not."""
        return self.folder / f"models--{name.replace('/', '--')}"

    def snapshot(self, name: str, sha: str) -> Path:
        """The folder of one commit's files, there or not."""
        return self.repo(name) / "snapshots" / sha

    def resolve(self, name: str, revision: str | None) -> str | None:
        """The commit that the revision was when last seen, or None. The start of a commit id does for one."""
        revision = revision or HEAD
        with contextlib.suppress(OSError):
            found = (self.repo(name) / "refs" / revision).read_text().strip()
            if len(found) == _FULL:
                return found
        with contextlib.suppress(OSError):
            hits = [s for s in os.listdir(self.repo(name) / "snapshots") if s.startswith(revision)]
            return hits[0] if len(hits) == 1 and len(revision) >= 7 else None
        return None

    def remember(self, info: RepoInfo, revision: str | None) -> None:
        """Note that a complete copy is here: the list of its files, and what the revision was. Failing is no harm."""
        record = {
            "files": [[f.path, f.size, f.sha256, f.git_sha1] for f in info.files],
            "tags": list(info.tags),
            "private": info.private,
            "modified": info.modified,
            "url": info.url,
            "metadata": dict(info.metadata),
        }
        with contextlib.suppress(OSError):
            _replace(self.repo(info.name) / "zoo" / f"{info.revision}.json", json.dumps(record, default=str))
            if revision != info.revision and not info.revision.startswith(revision or HEAD):
                _replace(self.repo(info.name) / "refs" / (revision or HEAD), info.revision)

    def recorded(self, name: str, sha: str) -> RepoInfo | None:
        """The hub's list of a commit's files as it was noted, or None where it was not, or is not readable."""
        path = self.repo(name) / "zoo" / f"{sha}.json"
        with contextlib.suppress(OSError, IntegrityError, KeyError, TypeError, ValueError):
            row = read_json(path, str(path))
            files = tuple(RepoFile(path=p, size=int(n), sha256=s, git_sha1=g) for p, n, s, g in row["files"])
            return RepoInfo(
                name=name,
                revision=sha,
                files=files,
                tags=tuple(row["tags"]),
                private=row["private"],
                modified=row["modified"],
                url=row["url"],
                metadata=row["metadata"],
            )
        return None

    def find(self, name: str, sha: str, path: str) -> Path | None:
        """A cached file, or None."""
        spot = self.snapshot(name, sha) / path
        return spot if spot.is_file() else None

    def by_blob_name(self, name: str, sha: str, path: str) -> RepoFile | None:
        """What a cached file must hash to by its blob's name: for files that another client downloaded."""
        spot = self.find(name, sha, path)
        if spot is None:
            return None
        blob = Path(os.readlink(spot)).name if spot.is_symlink() else ""
        hexed = all(c in "0123456789abcdef" for c in blob)
        return RepoFile(
            path=path,
            size=spot.stat().st_size,
            sha256=blob if hexed and len(blob) == 64 else None,
            git_sha1=blob if hexed and len(blob) == _FULL else None,
        )

    def check(self, spot: Path, file: RepoFile) -> tuple[str, str] | None:
        """None where the bytes are what the hub says, else (expected, found).

        A file of which the hub keeps no hash passes on its size.
        """
        stamp = _stamp(spot)
        if file.sha256 is not None:
            expected, found = file.sha256, self._hash(spot, False)
        elif file.git_sha1 is not None:
            expected, found = file.git_sha1, self._hash(spot, True)
        else:
            expected, found = f"{file.size} bytes", f"{stamp[1]} bytes"
        if expected == found:
            return None
        self._damaged[str(spot.resolve())] = stamp
        return expected, found

    def sha256(self, spot: Path) -> str:
        """The sha256 of a file; hashed once a process while its stamp stays."""
        return self._hash(spot, False)

    def _hash(self, spot: Path, git: bool) -> str:
        key = (str(spot.resolve()), _stamp(spot), git)
        if key not in self._hashes:
            self._hashes[key] = git_sha1_of(spot) if git else sha256_of(spot)
        return self._hashes[key]

    def quarantine(self, name: str, spot: Path) -> None:
        """Take a file that :meth:`check` found damaged out of everybody's reach, unless somebody replaced it meanwhile.

        Links to it are left: they lead nowhere until the file is there again.
        """
        with contextlib.suppress(OSError):
            real = spot.resolve(strict=True)
            stamp = self._damaged.pop(str(real), None)
            if stamp is None or stamp != _stamp(real):
                return
            ward = self.repo(name) / "zoo" / "damaged" / f"{real.name}.{secrets.token_hex(4)}"
            ward.parent.mkdir(parents=True, exist_ok=True)
            os.rename(real, ward)
            if stamp != _stamp(ward):  # replaced in this very moment: put the good one back
                self._put_back(ward, real)
            else:
                os.utime(ward)  # its day begins

    def _put_back(self, ward: Path, real: Path) -> None:
        try:
            os.link(ward, real)
        except FileExistsError:  # and another came since
            pass
        except OSError:  # a disk without such links
            os.rename(ward, real)
            return
        ward.unlink()

    def forget(self, spot: Path) -> None:
        """Remove the links that lead to a file which is not there and will not come."""
        while spot.is_symlink() and not spot.exists():
            link = Path(os.path.abspath(spot.parent / os.readlink(spot)))
            with contextlib.suppress(OSError):
                spot.unlink()
            spot = link

    def partial(self, name: str, blob: str) -> int:
        """A number that changes while any process downloads this blob."""
        total = 0
        with contextlib.suppress(OSError), os.scandir(self.repo(name) / "blobs") as rows:
            for row in rows:
                if row.name.startswith(blob):
                    with contextlib.suppress(OSError):
                        total += 1 + row.stat().st_size
        return total

    def lock(self, name: str, blob: str) -> str:
        """The lock file that huggingface_hub takes while it downloads this blob."""
        return str(self.folder / ".locks" / self.repo(name).name / f"{blob}.lock")

    def room(self, name: str, files: Iterable[RepoFile], sha: str) -> None:
        """Raise HubError where the disk has no room for those of the files that are not here yet."""
        blobs = self.repo(name) / "blobs"  # where an earlier commit may have left the same content
        missing = [
            f
            for f in files
            if not self.find(name, sha, f.path) and not (blobs / (f.sha256 or f.git_sha1 or "-")).exists()
        ]
        spot = self.repo(name)
        while not spot.exists() and spot != spot.parent:
            spot = spot.parent
        needed, free = sum(f.size for f in missing), shutil.disk_usage(spot).free
        if needed > free:
            raise HubError(
                f"{name}@{sha[:7]} needs {needed} bytes, {str(self.folder)!r} has {free} free",
                "free space, or set HF_HOME to another disk",
            )

    def sweep(self, name: str) -> None:
        """Remove what killed downloads left behind, and what was damaged, more than a day ago."""
        repo, old = self.repo(name), time.time() - STRAY_SECONDS
        strays = [(repo / "blobs", "*.incomplete"), (repo / "zoo" / "damaged", "*"), (repo / "zoo", ".*")]
        for folder, pattern in strays:
            for stray in folder.glob(pattern):
                with contextlib.suppress(OSError):
                    if stray.lstat().st_mtime < old:
                        stray.unlink()


def _stamp(spot: Path) -> Stamp:
    """What tells one file from another that takes its name: inode, size, time of change."""
    stat = spot.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _replace(path: Path, text: str) -> None:
    """Write a small file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fresh.write_text(text)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
