"""The local side of the Hugging Face Hub: its shared cache, read without a request and never trusted.

huggingface_hub keeps ``models--owner--name/{refs,blobs,snapshots}``; a blob is named by the hub's hash of it (sha256 of
large files, git's id of small ones), but nothing there ever checks the bytes. Beside them this module keeps
``zoo/<commit>.json``: the hub's own list of a revision's files, with hashes, written after a complete download. It is
what makes a copy known to be complete, and verifiable, without a network.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path

from zoo_registry.errors import IntegrityError

from zoo.hub.base import RepoFile, RepoInfo
from zoo.hub.files import git_sha1_of, read_json, sha256_of

HEAD = "main"
_FULL = 40


class Cache:
    """The cache under one folder, None: ``HF_HUB_CACHE``."""

    def __init__(self, folder: Path | str | None = None) -> None:
        if folder is None:
            from huggingface_hub import constants

            folder = constants.HF_HUB_CACHE
        self.folder = Path(folder).expanduser().absolute()
        self._hashes: dict[tuple[str, int, int, bool], str] = {}

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
        size = spot.stat().st_size
        if file.sha256 is not None:
            expected, found = file.sha256, self._hash(spot, False)
        elif file.git_sha1 is not None:
            expected, found = file.git_sha1, self._hash(spot, True)
        else:
            expected, found = f"{file.size} bytes", f"{size} bytes"
        return None if expected == found else (expected, found)

    def sha256(self, spot: Path) -> str:
        """The sha256 of a file; hashed once a process while its stamp stays."""
        return self._hash(spot, False)

    def _hash(self, spot: Path, git: bool) -> str:
        stat = spot.stat()
        key = (str(spot.resolve()), stat.st_size, stat.st_mtime_ns, git)
        if key not in self._hashes:
            self._hashes[key] = git_sha1_of(spot) if git else sha256_of(spot)
        return self._hashes[key]

    def discard(self, spot: Path) -> None:
        """Take a damaged file out of the cache, with every link on the way to its bytes, so that no client reads it."""
        while True:
            link = Path(os.path.abspath(spot.parent / os.readlink(spot))) if spot.is_symlink() else None
            with contextlib.suppress(OSError):
                spot.unlink()
            if link is None:
                return
            spot = link


def _replace(path: Path, text: str) -> None:
    """Write a small file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fresh.write_text(text)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
