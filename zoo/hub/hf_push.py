"""Publishing to the Hugging Face Hub: one commit on a head that was read first, and proved afterwards.

Only files that differ travel. A file that an earlier push of ours listed in its ``manifest.json`` and this one does
not have is removed in the same commit; files that somebody added on the hub stay.

A commit whose answer is lost may have landed: the head is read again before anything is said or tried again, so a lost
answer makes neither a second commit nor a false conflict.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_registry.errors import ConflictError, DataError, HubError, IntegrityError, ZooError

from zoo.hub.base import Progress, Pushed, RepoFile, RepoInfo
from zoo.hub.files import MANIFEST, check_listed, git_sha1_of, list_folder, read_manifest, sha256_of
from zoo.hub.hf_errors import Asked, MissingRepoError, attempt, redact, translate
from zoo.hub.names import check_name

if TYPE_CHECKING:
    from zoo.hub.huggingface import HfHub

_CARD = "README.md"
_ONE_AT_A_TIME = threading.Lock()  # hf_xet keeps one session a process; a push that fails takes the others down
_WAITS = (0.5, 2.0)


def check_access(hub: HfHub, name: str) -> None:
    """Raise HubError unless the login may write to the name's namespace; changes nothing."""
    owner, local = check_name(name)
    hub._online()
    hint = "hf auth login, or set HF_TOKEN to a token with write permission"
    if hub.token is False:
        raise HubError(f"not logged in to {hub.location}", hint)
    with hub._session():
        try:
            who = attempt(lambda: hub.api.whoami(cache=True), Asked(hub.location, name))
        except ZooError as error:
            if type(error.__cause__).__name__ == "LocalTokenNotFoundError":
                raise HubError(f"not logged in to {hub.location}", hint) from error
            raise
    user = str(who.get("name"))
    if ((who.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        raise HubError(f"the token of {user!r} may only read on {hub.location}", hint)
    orgs = [str(org.get("name")) for org in who.get("orgs") or () if org.get("roleInOrg") != "read"]
    if owner not in (user, *orgs):
        mine = ", ".join(f"{space}/{local}" for space in (user, *orgs[:3]))
        raise HubError(f"{user!r} may not write to {owner!r} on {hub.location}", f"push to {mine}")


def push_folder(
    hub: HfHub, folder: Path, name: str, *, private: bool, message: str, parent: str | None, progress: Progress | None
) -> Pushed:
    """As :meth:`zoo.hub.base.Hub.push`."""
    local = _local(folder)
    check_access(hub, name)
    asked = Asked(hub.location, name)
    with _ONE_AT_A_TIME, hub._session(), _bars():
        head = _head(hub, name, private, asked)
        if _unchanged(local, head):
            return _pushed(hub, head, local, created=False)
        if parent is not None and not head.revision.startswith(parent):
            raise _moved(hub, name, parent, head)
        after = _publish(hub, folder, name, local, head, message)
        _prove(hub, name, local, after)
    if progress is not None:
        total = sum(f.size for f in local.values())
        progress(name, total, total)
    return _pushed(hub, after, local, created=True)


def _local(folder: Path) -> dict[str, RepoFile]:
    """The folder's files with both hashes, checked against its manifest."""
    files = {}
    for path in list_folder(folder):
        spot = folder / path
        files[path] = RepoFile(path=path, size=spot.stat().st_size, sha256=sha256_of(spot), git_sha1=git_sha1_of(spot))
    if MANIFEST in files:
        check_listed(read_manifest(folder / MANIFEST, str(folder)), files, str(folder))
    return files


def _head(hub: HfHub, name: str, private: bool, asked: Asked) -> RepoInfo:
    """The head of ``main``; a repo that is not there is made."""
    with contextlib.suppress(MissingRepoError):
        return hub._remote_info(name, None)
    attempt(lambda: hub.api.create_repo(name, private=private, exist_ok=True), asked)
    return hub._remote_info(name, None)


def _unchanged(local: dict[str, RepoFile], head: RepoInfo) -> bool:
    """Whether the head has all these files, with these hashes."""
    remote = {f.path: f for f in head.files}
    return all(path in remote and _same(file, remote[path]) for path, file in local.items())


def _same(local: RepoFile, remote: RepoFile) -> bool:
    if remote.sha256 is not None:
        return remote.sha256 == local.sha256
    return remote.git_sha1 == local.git_sha1


def _stale(hub: HfHub, head: RepoInfo, local: dict[str, RepoFile]) -> list[str]:
    """What the head's own manifest lists and this push has not: our earlier files, to be removed."""
    remote = {f.path: f for f in head.files}
    if MANIFEST not in remote:
        return []
    from zoo.hub.meter import Meter

    try:
        listed = read_manifest(hub._fetch(head, remote[MANIFEST], None, Meter(None, 0)), head.name)
    except IntegrityError:  # not ours, then
        return []
    return sorted(p for p in listed if p in remote and p not in local and p != _CARD)


def _publish(hub: HfHub, folder: Path, name: str, local: dict[str, RepoFile], head: RepoInfo, message: str) -> RepoInfo:
    """The commit, tried again where nothing came of it; returns the hub's word on it."""
    stale = _stale(hub, head, local)
    for wait in (*_WAITS, None):
        try:
            made = _commit(hub, folder, name, local, head, stale, message)
        except Exception as error:
            landed = _after(hub, name, head, local, error, wait is None)
            if landed is not None:
                return landed
            time.sleep(wait or 0.0)
        else:
            return hub._remote_info(name, made)
    raise AssertionError("unreachable")


def _commit(
    hub: HfHub, folder: Path, name: str, local: dict[str, RepoFile], head: RepoInfo, stale: list[str], message: str
) -> str:
    """One commit on the head; returns its id."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    remote = {f.path: f for f in head.files}
    changed = [p for p, file in local.items() if p not in remote or not _same(file, remote[p])]
    operations: list[Any] = [CommitOperationAdd(p, str(folder / p)) for p in changed]
    operations += [CommitOperationDelete(p) for p in stale]
    title = " ".join(message.split()) or "publish"
    made = hub.api.create_commit(name, operations, commit_message=title, parent_commit=head.revision)
    return str(made.oid)


def _after(
    hub: HfHub, name: str, head: RepoInfo, local: dict[str, RepoFile], error: Exception, last: bool
) -> RepoInfo | None:
    """What a failed commit came to: the head it made after all, None to try again, or the error it really is."""
    known = translate(error, Asked(hub.location, name))
    try:
        now = hub._remote_info(name, None)
    except ZooError:
        raise known from error
    if now.revision != head.revision:
        if _unchanged(local, now):
            return now
        raise _moved(hub, name, head.revision, now) from error
    if isinstance(error, ValueError) and "metadata" in str(error).lower():
        raise DataError(f"{hub.location} refuses the card: {redact(str(error))}", f"mend {_CARD}'s header") from error
    if isinstance(known, ConflictError) or last or not getattr(known, "again", False):
        raise known from error
    return None


def _prove(hub: HfHub, name: str, local: dict[str, RepoFile], after: RepoInfo) -> None:
    """The hub's own hashes against ours, file by file."""
    remote = {f.path: f for f in after.files}
    for path, file in local.items():
        there = remote.get(path)
        if there is None or not _same(file, there):
            found = (there.sha256 or there.git_sha1) if there is not None else "nothing"
            raise IntegrityError(
                f"{name}@{after.revision[:7]}: {path} did not arrive whole on {hub.location}: "
                f"sent {file.sha256}, there is {found}",
                "push again",
            )


def _pushed(hub: HfHub, info: RepoInfo, local: dict[str, RepoFile], *, created: bool) -> Pushed:
    url = f"{hub.location}/{info.name}"
    return Pushed(name=info.name, revision=info.revision, url=url, files=tuple(local), created=created)


def _moved(hub: HfHub, name: str, parent: str, head: RepoInfo) -> ConflictError:
    return ConflictError(
        f"{name!r} changed meanwhile on {hub.location}: this push was made on {parent[:7]}, "
        f"the head is now {head.revision[:7]}",
        f"look at it (zoo show {name}) and push again",
    )


@contextlib.contextmanager
def _bars() -> Iterator[None]:
    """huggingface_hub's own bars on a terminal only; it has no other way to tell how far an upload is."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
