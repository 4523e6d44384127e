"""Tags: names for revisions that people remember (``v1``). A tag is set once and never moved by us.

On a folder hub a tag is ``ROOT/owner/name/tags/<tag>/tag.json``. The folder is written elsewhere and renamed into its
place, which fails where a tag of that name is: the same compare-and-swap that publishes revisions.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_registry.errors import ConflictError, HubError, IntegrityError, UsageError, ZooError

from zoo.hub.files import git_sha1_of, list_folder, read_json, sha256_of
from zoo.hub.hf_errors import Asked, MissingRepoError, attempt, translate
from zoo.hub.names import check_name, is_sha
from zoo.hub.writing import sync_folder, write_synced

if TYPE_CHECKING:
    from zoo.hub.base import Hub, RepoInfo
    from zoo.hub.huggingface import HfHub

log = logging.getLogger("zoo.hub")

FORMAT = 1
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEADS = ("main", "latest", "head")
_RECORD = "tag.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def check_tag(tag: str) -> str:
    """The tag, if it can be one on every hub and cannot be taken for a branch or a commit id.

    Raises:
        UsageError: it cannot.
    """
    if not _TAG.fullmatch(tag) or ".." in tag or tag.endswith((".", ".lock")):
        raise UsageError(f"{tag!r} is no tag", "letters, digits, '.', '_' and '-', such as v1 or 2026-11")
    if tag.lower() in _HEADS or is_sha(tag.lower()):
        what = "the newest revision" if tag.lower() in _HEADS else "the start of a commit id"
        raise UsageError(f"{tag!r} is no tag: it means {what}", "such as v1 or 2026-11")
    return tag


def tag_conflict(name: str, tag: str, is_at: str, wanted: str) -> ConflictError:
    """The error for a tag that is taken; names both commits."""
    return ConflictError(
        f"tag {tag!r} of {name!r} is at {is_at[:12]} and is never moved; it was wanted for {wanted}",
        f"another --tag, or zoo show {name}@{tag} to see what it names",
    )


def require_free(hub: Hub, name: str, tag: str, folder: Path) -> None:
    """Before a push: the tag is free, or names the very files of ``folder`` as the newest revision.

    Raises:
        ConflictError: it names something else. Nothing was published.
        HubError: the hub does not answer.
    """
    taken = hub.tags(name).get(check_tag(tag))
    if taken is None:
        return
    there, head = hub.info(name, taken), hub.info(name)
    if there.revision != head.revision or not _holds(there, folder):
        raise tag_conflict(name, tag, there.revision, "what this push would publish")


def set_tag(hub: Hub, name: str, tag: str, revision: str) -> None:
    """After a push: name what was published; an error says that it was.

    Raises:
        ConflictError: somebody set the tag meanwhile.
        HubError: the hub does not answer; the same push again sets the tag alone.
    """
    try:
        hub.tag(name, tag, revision)
    except ConflictError as error:
        raise ConflictError(f"{name}@{revision[:12]} is published, but {error.message}", error.hint) from error
    except HubError as error:
        hint = "push again: what is published stays as it is, and the tag is set"
        message = f"{name}@{revision[:12]} is published, but without tag {tag!r}: {error.message}"
        raise HubError(message, hint) from error


def _holds(info: RepoInfo, folder: Path) -> bool:
    """Whether the revision has every file of the folder, with its bytes."""
    remote = {f.path: f for f in info.files}
    for path in list_folder(folder):
        there = remote.get(path)
        if there is None:
            return False
        sha = there.sha256
        if (sha256_of(folder / path) != sha) if sha else (git_sha1_of(folder / path) != there.git_sha1):
            return False
    return True


# ---------------------------------------------------------------------- folder hub


def read_tag(repo: Path, tag: str) -> str | None:
    """The commit that a tag of a folder hub's repo names, or None where there is no such tag.

    Raises:
        IntegrityError: its record is damaged.
    """
    if not _TAG.fullmatch(tag):
        return None
    spot = repo / "tags" / tag / _RECORD
    try:
        record = read_json(spot, str(spot))
    except (FileNotFoundError, NotADirectoryError):
        return None
    fields = record if isinstance(record, dict) else {}
    commit = fields.get("revision")
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit) or not isinstance(fields.get("tag"), str):
        raise IntegrityError(f"{str(spot)!r} is damaged", "remove its folder and tag the revision again")
    return commit if fields["tag"] == tag else None  # a disk that does not tell V1 from v1


def read_tags(repo: Path) -> dict[str, str]:
    """Tag -> commit of a folder hub's repo; damaged ones are left out, with a warning."""
    found: dict[str, str] = {}
    for tag in sorted(os.listdir(repo / "tags")) if (repo / "tags").is_dir() else []:
        try:
            commit = read_tag(repo, tag)
        except IntegrityError as error:
            log.warning("tag %s is left out: %s", tag, error.message)
        else:
            found |= {tag: commit} if commit is not None else {}
    return found


def write_tag(repo: Path, name: str, tag: str, revision: str) -> bool:
    """Set a tag of a folder hub's repo by one rename; False where it named this commit already.

    Raises:
        ConflictError: it names another.
        HubError: the disk says no.
    """
    with _fresh(repo) as spot:
        record = {"format": FORMAT, "tag": tag, "revision": revision, "date": datetime.now(UTC).isoformat()}
        write_synced(spot / _RECORD, json.dumps(record, indent=1).encode())
        sync_folder(spot)
        (repo / "tags").mkdir(exist_ok=True)
        try:
            os.rename(spot, repo / "tags" / tag)
        except OSError as error:
            return _taken(repo, name, tag, record, error)
        sync_folder(repo / "tags")
    return True


def _taken(repo: Path, name: str, tag: str, record: dict[str, Any], error: OSError) -> bool:
    """What a rename that failed came to: our own after all (a lost answer), the same before, or a conflict."""
    spot = repo / "tags" / tag / _RECORD
    if not spot.is_file():
        raise error
    there = read_json(spot, str(spot))
    if not isinstance(there, dict) or (there.get("tag"), there.get("revision")) != (tag, record["revision"]):
        found = there if isinstance(there, dict) else {}
        raise tag_conflict(
            name, str(found.get("tag", tag)), str(found.get("revision")), record["revision"][:12]
        ) from error
    return bool(there == record)


@contextlib.contextmanager
def _fresh(repo: Path) -> Iterator[Path]:
    spot = repo / "incoming" / secrets.token_hex(8)
    try:
        spot.mkdir(parents=True)
        yield spot
    except OSError as error:
        reason = error.strerror or str(error)
        raise HubError(f"cannot write a tag to {str(repo)!r}: {reason}", "nothing was changed") from error
    finally:
        shutil.rmtree(spot, ignore_errors=True)


# ---------------------------------------------------------------------- Hugging Face Hub


def hf_tags(hub: HfHub, name: str) -> dict[str, str]:
    """Tag -> commit of a repo on a hub of the Hugging Face kind; tags that our rules do not know are left out."""
    check_name(name)
    if hub.offline:
        return {}
    try:
        with hub._session():
            refs = attempt(lambda: hub.api.list_repo_refs(name), Asked(hub.location, name))
    except MissingRepoError:
        return {}
    found = {str(ref.name): str(ref.target_commit) for ref in refs.tags}
    return {tag: found[tag] for tag in sorted(found) if _TAG.fullmatch(tag) and _COMMIT.fullmatch(found[tag])}


def hf_write_tag(hub: HfHub, name: str, tag: str, revision: str) -> bool:
    """Set a tag; False where it named this commit already.

    The hub refuses a tag that exists; where the answer is lost or a refusal comes, the tags are read again and decide.

    Raises:
        ConflictError: it names another commit.
        HubError: the hub does not answer, or forbids it.
    """
    check_tag(tag)
    hub._online()
    if (there := hf_tags(hub, name).get(tag)) is not None:
        return _same_commit(hub, name, tag, there, revision)

    def call() -> bool:
        try:
            hub.api.create_tag(name, tag=tag, revision=revision)
        except Exception as error:
            there = _tag_after(hub, name, tag)
            if there is None:
                raise
            known = translate(error, Asked(hub.location, name, revision))
            return _same_commit(hub, name, tag, there, revision) or getattr(known, "again", False)
        return True

    with hub._session():
        return attempt(call, Asked(hub.location, name, revision))


def _tag_after(hub: HfHub, name: str, tag: str) -> str | None:
    """Where the tag is after a failure, None where that is not to be learnt either."""
    with contextlib.suppress(ZooError):
        return hf_tags(hub, name).get(tag)
    return None


def _same_commit(hub: HfHub, name: str, tag: str, there: str, revision: str) -> bool:
    """False, for nothing was made, where the tag's commit is the one that was wanted."""
    if there != revision and hub.info(name, tag).revision != revision:  # an annotated tag has an id of its own
        raise tag_conflict(name, tag, there, revision[:12])
    return False
