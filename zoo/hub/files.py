"""Files of a revision: which may travel, what they hash to, and the manifest that lists them.

``manifest.json`` reads ``{"files": {path: {"sha256": hex, "size": bytes}}}`` and lists every file but itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from zoo_registry.errors import DataError, IntegrityError

from zoo.hub.base import RepoFile
from zoo.hub.contents import check_content, check_links, read_limited
from zoo.hub.names import check_path

MANIFEST = "manifest.json"
SAFE_SUFFIXES = frozenset(
    {".safetensors", ".json", ".jsonl", ".md", ".txt", ".csv", ".toml", ".png", ".jpg", ".jpeg", ".model", ".vocab"}
)
"""Suffixes that travel: tensors, JSON, text, pictures, and vocabularies (a SentencePiece ``.model`` is a protobuf)."""
SAFE_NAMES = frozenset({"LICENSE", "NOTICE"})
PICKLES = frozenset(
    {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".pt2", ".joblib", ".npy", ".npz", ".h5", ".msgpack"}
)
"""Suffixes of weights that are, or may hold, code; named in messages only: whatever is not safe stays out."""
NOT_BINDING = frozenset({"README.md"})
"""Listed in the manifest for completeness; a card that was edited on the hub is no damage."""
_CHUNK = 1 << 20


def is_safe(path: str) -> bool:
    """Whether a file of this name may be published, downloaded and read."""
    pure = PurePosixPath(path)
    return pure.suffix.lower() in SAFE_SUFFIXES or pure.name in SAFE_NAMES


def only_pickles(paths: Iterable[str]) -> list[str]:
    """The weight files that may hold code, if there are any and no safetensors file stands beside them."""
    names = list(paths)
    if any(p.endswith(".safetensors") for p in names):
        return []
    return [p for p in names if PurePosixPath(p).suffix.lower() in PICKLES]


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def git_sha1_of(path: Path) -> str:
    """Git's blob id of a file: what the Hugging Face Hub calls files that are not in its large-file store."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def list_folder(folder: Path) -> list[str]:
    """Relative paths of the files to publish, sorted. Hidden files and folders are left out.

    Raises:
        DataError: not a folder, empty, or it holds a link, a special file, or a file that may not be published.
    """
    if not folder.is_dir():
        raise DataError(f"{str(folder)!r} is not a folder", "give the folder of a bundle, for example RUN/model")
    found, bad = [], []
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(d for d in folders if not d.startswith("."))
        for name in sorted(names) + folders:
            full = Path(base) / name
            path = full.relative_to(folder).as_posix()
            if full.is_symlink():
                bad.append(f"{path} (a link)")
            elif name.startswith(".") or name in folders:
                continue
            elif not full.is_file() or not is_safe(path):
                bad.append(f"{path} (only {', '.join(sorted(SAFE_SUFFIXES))} may be)" if full.is_file() else path)
            else:
                found.append(check_path(path))
    if bad:
        raise DataError(f"{str(folder)!r} holds what may not be published: {'; '.join(bad[:5])}", "remove it")
    if not found:
        raise DataError(f"{str(folder)!r} is empty", "nothing to publish")
    return sorted(found)


def read_json(path: Path, what: str) -> Any:
    """The JSON in a file.

    Raises:
        IntegrityError: over the size limit, no plain file, or not JSON; ``what`` names it in the message.
    """
    data = read_limited(path, what)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what} is not JSON ({type(error).__name__})") from error


def read_manifest(path: Path, what: str) -> dict[str, RepoFile]:
    """Path -> file with its size and sha256, from a ``manifest.json``.

    Raises:
        IntegrityError: it is not of the form in this module's docstring; ``what`` names the repo or folder.
    """
    where = f"{what}: {MANIFEST}"
    data = read_json(path, where)
    rows = data.get("files") if isinstance(data, dict) else None
    if not isinstance(rows, dict):
        raise IntegrityError(f"{where} lists no files")
    out = {}
    for name, row in rows.items():
        digest, size = (row.get("sha256"), row.get("size")) if isinstance(row, dict) else (None, None)
        if not isinstance(digest, str) or len(digest) != 64 or not isinstance(size, int) or size < 0:
            raise IntegrityError(f"{where}: no sha256 and size for {name!r}")
        out[check_path(name)] = RepoFile(path=name, size=size, sha256=digest.lower())
    return out


def check_listed(listed: Mapping[str, RepoFile], present: Mapping[str, RepoFile], what: str) -> None:
    """Compare files with a manifest: nothing missing, nothing changed, nothing extra; the card may be edited.

    Raises:
        IntegrityError: names the first file that differs, with both hashes.
    """
    for path in sorted(listed):
        have = present.get(path)
        if have is None:
            raise IntegrityError(f"{what}: {path} stands in {MANIFEST} and is missing", "publish the bundle again")
        if path not in NOT_BINDING and (have.size, have.sha256) != (listed[path].size, listed[path].sha256):
            raise mismatch(f"{what}: {path}", listed[path].sha256, have.sha256, MANIFEST)
    extra = sorted(set(present) - set(listed) - {MANIFEST} - NOT_BINDING)
    if extra:
        raise IntegrityError(f"{what}: {extra[0]} does not stand in {MANIFEST}", "remove it, or write the bundle again")


def verify_folder(folder: Path, what: str) -> dict[str, RepoFile]:
    """Hash the files that a folder's manifest lists, before they are read; returns them.

    For reading, not for publishing: links within the folder are followed, and those of the Hugging Face cache, which
    is made of them (:func:`zoo.hub.contents.check_links`). Files that the manifest does not list are nobody's business
    and not to be read.

    Raises:
        IntegrityError: no manifest, or a listed file that is missing, unsafe, changed or a link out; it is named.
    """
    if not (folder / MANIFEST).is_file():
        raise IntegrityError(f"{what} has no {MANIFEST}", "the bundle is not complete; write or pull it again")
    check_links(folder, [MANIFEST], what)
    listed = read_manifest(folder / MANIFEST, what)
    check_links(folder, listed, what)
    present = {}
    for path in listed:
        if not is_safe(path):
            raise IntegrityError(f"{what}: {MANIFEST} lists {path!r}, which is never read", "do not use this bundle")
        spot = folder / path
        if spot.is_file():
            size = spot.stat().st_size
            same = size == listed[path].size or path in NOT_BINDING  # one that grew is not hashed to its end
            present[path] = RepoFile(path=path, size=size, sha256=sha256_of(spot) if same else f"{size} bytes")
    check_listed(listed, present, what)
    for path in listed:
        check_content(folder / path, path, what)
    return listed


def mismatch(what: str, expected: str | None, found: str | None, source: str) -> IntegrityError:
    """The error for a file whose bytes are not the published ones; names both hashes."""
    return IntegrityError(
        f"{what} is damaged: {source} says sha256 {expected}, the file has {found}",
        "delete the copy and fetch it again; if it stays so, the published file itself is wrong",
    )


def front_matter(text: str) -> dict[str, Any]:
    """The YAML mapping at the top of a card, or {} where there is none that can be read. Never raises."""
    import yaml  # a dependency of huggingface_hub; slow to import

    lines = text.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    stop = next((i for i, line in enumerate(lines[1:], 1) if line.strip() == "---"), None)
    if stop is None:
        return {}
    try:
        data = yaml.safe_load("\n".join(lines[1:stop]))
        return json.loads(json.dumps(data, default=str)) if isinstance(data, dict) else {}
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return {}
