"""Publishing to the Hugging Face Hub: one commit on a head that was read first, and proved afterwards.

Only files that differ travel, in a process of their own (:mod:`zoo.hub.hf_send`): large ones one by one, then one
commit. Whatever stops it, what has arrived is not sent again. A file that an earlier push of ours listed in its
``manifest.json`` and this one does not have is removed in the same commit; files that somebody added on the hub stay.

A commit whose answer is lost may have landed: the head is read again before anything is said or tried again, so a lost
answer makes neither a second commit nor a false conflict.

Every wait is said, and all of them end by one deadline (:mod:`zoo.deadline`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zoo_registry.errors import ConflictError, DataError, HubError, IntegrityError, ZooError

from zoo.deadline import Deadline, push_deadline
from zoo.hub.base import Progress, Pushed, RepoFile, RepoInfo
from zoo.hub.files import MANIFEST, check_listed, git_sha1_of, list_folder, read_manifest, sha256_of
from zoo.hub.hf_errors import Asked, MissingRepoError, translate
from zoo.hub.names import check_name
from zoo.watched import CrashError, Tell, watch

if TYPE_CHECKING:
    from zoo.hub.huggingface import HfHub

log = logging.getLogger("zoo.hub")
T = TypeVar("T")

CARD = "README.md"
WAITS = (0.5, 2.0, 5.0, 10.0)
"""Seconds between tries, unless the hub asks for more."""


def patiently(call: Callable[[], T], asked: Asked, until: Deadline) -> T:
    """Call, and again after a wait where the hub was busy or the connection broke: five times at most.

    Raises:
        ZooError: as :func:`zoo.hub.hf_errors.translate`.
        DeadlineError: the next try would come too late.
    """
    for wait in (*WAITS, None):
        try:
            return call()
        except Exception as error:
            known = translate(error, asked)
            if wait is None or not _worth_it(known):
                raise known from error
            until.wait(max(wait, getattr(known, "wait", None) or 0.0), known.message)
    raise AssertionError("unreachable")


def _worth_it(error: ZooError) -> bool:
    """Whether another try may help: the hub was busy, the connection broke, or the hub says when to come again."""
    return bool(getattr(error, "again", False) or getattr(error, "wait", None))


def check_access(hub: HfHub, name: str, until: Deadline | None = None) -> None:
    """Raise HubError unless the login may write to the name's namespace; changes nothing."""
    until = until or push_deadline(None)
    owner, local = check_name(name)
    hub._online()
    hint = "hf auth login, or set HF_TOKEN to a token with write permission"
    if hub.token is False:
        raise HubError(f"not logged in to {hub.location}", hint)
    with hub._session():
        try:
            who = patiently(lambda: hub.api.whoami(cache=True), Asked(hub.location, name), until)
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
    hub: HfHub,
    folder: Path,
    name: str,
    *,
    private: bool,
    message: str,
    parent: str | None,
    progress: Progress | None,
    deadline: Deadline | None = None,
) -> Pushed:
    """As :meth:`zoo.hub.base.Hub.push`."""
    until = deadline or push_deadline(None)
    local = _local(folder)
    check_header(folder)
    check_access(hub, name, until)
    with hub._session():
        head = _head(hub, name, private, until)
        if _unchanged(local, head):
            return _pushed(hub, head, local, created=False)
        if parent is not None and not head.revision.startswith(parent):
            raise _moved(hub, name, parent, head)
        order = _order(hub, folder, name, local, head, message)
        after, created = _publish(hub, order, local, head, until, _teller(local, order["add"], progress))
        _prove(hub, name, local, after)
    if progress is not None:
        total = sum(f.size for f in local.values())
        progress(name, total, total)
    return _pushed(hub, after, local, created=created)


def _local(folder: Path) -> dict[str, RepoFile]:
    """The folder's files with both hashes, checked against its manifest."""
    files = {}
    for path in list_folder(folder):
        spot = folder / path
        files[path] = RepoFile(path=path, size=spot.stat().st_size, sha256=sha256_of(spot), git_sha1=git_sha1_of(spot))
    if MANIFEST in files:
        check_listed(read_manifest(folder / MANIFEST, str(folder)), files, str(folder))
    return files


def check_header(folder: Path) -> None:
    """The card's metadata as the Hub reads it, before anything is sent.

    Raises:
        DataError: it is no YAML, or a field is not what it should be.
    """
    if not (folder / CARD).is_file():
        return
    import yaml
    from huggingface_hub import ModelCard

    try:
        ModelCard((folder / CARD).read_text(encoding="utf-8"), ignore_metadata_errors=False)
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"no hub takes the card: its header is wrong ({reason})", f"mend {CARD}'s header") from error


def _look(hub: HfHub, name: str, until: Deadline) -> RepoInfo:
    """The head of ``main`` as the hub tells it now."""
    from zoo.hub.huggingface import _timeout

    def call() -> RepoInfo:
        return hub._info(hub.api.model_info(name, files_metadata=True, timeout=_timeout()))

    return patiently(call, Asked(hub.location, name), until)


def _head(hub: HfHub, name: str, private: bool, until: Deadline) -> RepoInfo:
    """The head of ``main``; a repo that is not there is made."""
    with contextlib.suppress(MissingRepoError):
        return _look(hub, name, until)
    patiently(lambda: hub.api.create_repo(name, private=private, exist_ok=True), Asked(hub.location, name), until)
    return _look(hub, name, until)


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
    return sorted(p for p in listed if p in remote and p not in local and p != CARD)


def _order(
    hub: HfHub, folder: Path, name: str, local: dict[str, RepoFile], head: RepoInfo, message: str
) -> dict[str, Any]:
    """What :func:`zoo.hub.hf_send.transfer` is to do."""
    remote = {f.path: f for f in head.files}
    changed = {p: file.sha256 for p, file in local.items() if p not in remote or not _same(file, remote[p])}
    return {
        "endpoint": hub.location,
        "token": hub.token,
        "name": name,
        "folder": str(folder),
        "parent": head.revision,
        "message": " ".join(message.split()) or "publish",
        "add": changed,
        "remove": _stale(hub, head, local),
    }


def _teller(local: dict[str, RepoFile], sent: dict[str, Any], progress: Progress | None) -> Tell:
    """Passes on what the transfer tells."""
    total = sum(f.size for f in local.values())
    there = sum(f.size for p, f in local.items() if p not in sent)
    moved: dict[str, int] = {}

    def on(event: dict[str, Any]) -> None:
        if "say" in event:
            log.warning("%s", event["say"])
        if "file" in event:
            moved[str(event["file"])] = int(event["done"])
            if progress is not None:
                progress(str(event["file"]), min(there + sum(moved.values()), total), total)

    return on


def send(hub: HfHub, order: dict[str, Any], until: Deadline, on: Tell) -> dict[str, Any]:
    """One try at the transfer, in a fresh process; returns its answer."""
    return dict(watch("zoo.hub.hf_send", order, on=on, deadline=until))


def _publish(
    hub: HfHub, order: dict[str, Any], local: dict[str, RepoFile], head: RepoInfo, until: Deadline, on: Tell
) -> tuple[RepoInfo, bool]:
    """The commit, tried again where nothing came of it; the hub's word on it, and whether it is of this push."""
    for wait in (*WAITS, None):
        try:
            made = send(hub, order, until, on)
        except ZooError as error:
            known = _ended(error) if isinstance(error, CrashError) else error
            landed = _landed(hub, order["name"], head, local, known, until)
            if landed is not None:
                return landed, not isinstance(known, ConflictError)
            if wait is None or isinstance(known, ConflictError) or not _worth_it(known):
                raise known from error
            until.wait(max(wait, getattr(known, "wait", None) or 0.0), known.message)
        else:
            return _made(hub, order["name"], str(made["revision"]), until), bool(made["created"])
    raise AssertionError("unreachable")


def _made(hub: HfHub, name: str, revision: str, until: Deadline) -> RepoInfo:
    """The hub's word on the commit that it just made."""
    from zoo.hub.huggingface import _timeout

    def call() -> RepoInfo:
        return hub._info(hub.api.model_info(name, revision=revision, files_metadata=True, timeout=_timeout()))

    try:
        return patiently(call, Asked(hub.location, name, revision), until)
    except HubError as error:
        raise HubError(
            f"{name} was published at {revision[:12]}, but its files could not be compared: {error.message}",
            "push again: it compares them, and publishes nothing twice",
        ) from error


def _ended(error: CrashError) -> HubError:
    return HubError(f"the process that sends the files ended: {error.message}", "push again; what has arrived stays")


def _landed(
    hub: HfHub, name: str, head: RepoInfo, local: dict[str, RepoFile], known: ZooError, until: Deadline
) -> RepoInfo | None:
    """After a failure: the head that it made after all, or None where the head is as it was.

    Raises:
        ConflictError: the head is somebody else's.
        ZooError: what failed, where the head cannot be read either.
    """
    try:
        now = _look(hub, name, until if until.left() else Deadline(0.001))
    except ZooError:
        said = f"{known.message}; and whether the commit landed is not known, as the hub does not say"
        raise HubError(said, "push again: what landed is recognised, and what has arrived is not sent again") from known
    if now.revision == head.revision:
        return None
    if _unchanged(local, now):
        return now
    raise _moved(hub, name, head.revision, now) from known


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
