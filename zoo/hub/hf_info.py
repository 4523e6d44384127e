"""What a hub of the Hugging Face kind says of a revision and of a file, in our own terms; and whether both agree."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from zoo_registry.errors import IntegrityError

from zoo.hub.base import RepoFile, RepoInfo
from zoo.hub.hf_errors import Asked, no_hub

_SHA256 = re.compile(r"[0-9a-f]{64}")


def repo_info(model: Any, location: str) -> RepoInfo:
    """huggingface_hub's ModelInfo, of the hub at ``location``, as ours."""
    files = []
    for row in model.siblings or ():
        sha256 = row.lfs.sha256 if row.lfs is not None else None
        git = None if sha256 else row.blob_id
        files.append(RepoFile(path=row.rfilename, size=row.size or 0, sha256=sha256, git_sha1=git))
    metadata: Mapping[str, Any] = {}
    with contextlib.suppress(Exception):  # a card that its library cannot read is no reason to hide the repo
        metadata = dict(model.card_data.to_dict()) if model.card_data else {}
    changed = model.last_modified
    return RepoInfo(
        name=model.id,
        revision=str(model.sha or ""),
        files=tuple(files),
        tags=tuple(model.tags or ()),
        private=bool(model.private),
        modified=changed.isoformat() if changed is not None else None,
        url=f"{location}/{model.id}",
        metadata=metadata,
    )


def check_told(told: Any, info: RepoInfo, file: RepoFile, asked: Asked) -> None:
    """What the hub says of a file is what it said of the revision; nothing is downloaded otherwise.

    Raises:
        UnreachableError: it is no hub that says it.
        IntegrityError: another commit, size or hash.
    """
    if told.commit_hash is None:
        raise no_hub(asked.endpoint)
    for word, expected, found in (
        ("commit", info.revision, told.commit_hash),
        ("size", file.size, told.size),
        ("sha256", file.sha256, told.etag if _SHA256.fullmatch(told.etag or "") else None),  # a mirror may tell another
    ):
        if found is not None and expected is not None and found != expected:
            raise IntegrityError(
                f"{asked.endpoint} contradicts itself on {file.path} of {info.name}@{info.revision[:7]}: "
                f"{word} {expected}, then {found}",
                "try again later; a proxy in between?",
            )
