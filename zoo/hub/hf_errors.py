"""Errors of huggingface_hub as ours: the one place where they are told apart, and where tokens are cut out.

Its failures come as five families (OSError with HfHubHTTPError, the HTTP library's own errors, RuntimeError,
ValueError with JSONDecodeError, ConnectionError of hf_xet), often wrapped in one another; what is known of the answer
decides: first the status and error code of the hub, else the kind of failure.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from zoo_registry.errors import ConflictError, HubError, UsageError, ZooError

log = logging.getLogger("zoo.hub")
T = TypeVar("T")

_LOGIN = "hf auth login, or set HF_TOKEN"
_WAITS = (0.5, 2.0)
LONGEST_WAIT = 10.0
"""Seconds of one wait at most; a hub that asks for more is told so, and not asked again before."""


class UnreachableError(HubError):
    """The hub did not answer as a hub: a cached copy may stand in. ``again``: worth another try; ``wait``: seconds."""

    again = False
    wait: float | None = None


class MissingRepoError(HubError):
    """The hub knows no such repo, or does not admit it."""


@dataclass(frozen=True)
class Asked:
    """What was asked for, for the messages: ``owner/name``, revision, file, the hub's address."""

    endpoint: str
    name: str | None = None
    revision: str | None = None
    filename: str | None = None

    def __str__(self) -> str:
        return (self.name or "") + (f"@{self.revision[:40]}" if self.revision else "")


def redact(text: str) -> str:
    """What a library says, in one line of bounded length without secrets: :func:`mask`, and no queries of links."""
    text = re.sub(r"(?i)\b(bearer|token[=:])\s*\S+", r"\1 ***", mask(text))
    text = re.sub(r"(https?://[^\s?]+)\?\S*", r"\1", text)  # signed links
    return " ".join(text.split())[:300]


def mask(text: str) -> str:
    """The text without tokens: those of the environment, anything that looks like one, and logins in URLs."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if len(token := os.environ.get(name, "").strip()) > 3:
            text = text.replace(token, "hf_***")
    text = re.sub(r"\b(hf|api_org)_[A-Za-z0-9]{8,}[A-Za-z0-9_]*", "hf_***", text)
    return re.sub(r"://[^/@\s'\"]+@", "://***@", text)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _response(error: BaseException) -> Any:
    """The hub's answer behind an error, or None."""
    found = (getattr(e, "response", None) for e in _chain(error))
    return next((r for r in found if getattr(r, "status_code", None) is not None), None)


def translate(error: BaseException, asked: Asked) -> ZooError:
    """The ZooError for a failure of huggingface_hub; never one that quotes a token."""
    if isinstance(error, ZooError):
        return error
    response = _response(error)
    if response is not None and response.status_code >= 400:
        return _refused(error, response, asked)
    return _broken(error, asked)


def _refused(error: BaseException, response: Any, asked: Asked) -> ZooError:
    """What the hub itself said no to."""
    names = {type(e).__name__ for e in _chain(error)}
    status, hub = response.status_code, asked.endpoint
    said = redact(str(response.headers.get("X-Error-Message") or ""))
    if status in (408, 429) or status >= 500:
        return busy_error(response, hub)
    if status == 404 and not response.headers.get("X-Error-Code"):
        return no_hub(hub)
    if status == 412:
        return ConflictError(f"{str(asked)!r} changed meanwhile on {hub}", "look at it (zoo show NAME) and push again")
    if "GatedRepoError" in names:
        page = f"{hub}/{asked.name}"
        return HubError(f"{asked.name!r} is gated: access has to be granted", f"ask for it at {page}, then {_LOGIN}")
    if status == 401 and "invalid" in said.lower():
        return HubError(f"{hub} does not accept the token ({said})", _LOGIN)
    if "RepositoryNotFoundError" in names:
        hint = f"check the name; if the repo is private: {_LOGIN}"
        return MissingRepoError(f"no repo {asked.name!r} on {hub}, or it is private", hint)
    if "RevisionNotFoundError" in names:
        return HubError(f"{asked.name!r} has no revision {asked.revision!r} on {hub}", "without @revision: the newest")
    if "RemoteEntryNotFoundError" in names:
        return HubError(f"{asked} has no file {asked.filename!r} on {hub}", "check the name of the file")
    if status == 401:
        return HubError(f"{hub} wants a login", _LOGIN)
    if status == 403:
        return HubError(f"{hub} forbids it: {said or 'no reason given'}", "a token that may do this; then try again")
    return HubError(f"{hub} refuses with {status}: {said or _reason(error)}", "see the repo's page on the hub")


def busy_error(response: Any, hub: str) -> UnreachableError:
    """The error for an answer of 408, 429 or 5xx; worth another try, unless it asks for a longer wait than is made."""
    what = "too many requests" if response.status_code == 429 else "it is out of order"
    after = str(response.headers.get("Retry-After") or "")
    wait = float(after) if after.isdecimal() and len(after) < 9 else None
    hint = f"try again in {after} s, as it asks" if wait else "try again in a few minutes"
    busy = UnreachableError(f"{hub} answers {response.status_code}: {what}", hint)
    busy.again, busy.wait = wait is None or wait <= LONGEST_WAIT, wait
    return busy


def no_hub(hub: str) -> UnreachableError:
    """The error for an answer that no hub gives."""
    return UnreachableError(f"{hub} does not answer like a hub", "a login page in between? a wrong URL?")


def _broken(error: BaseException, asked: Asked) -> ZooError:
    """A failure on the way: no network, no login page, no space."""
    kinds = {c.__name__ for e in _chain(error) for c in type(e).__mro__}
    hub = asked.endpoint
    disk = next((e for e in _chain(error) if isinstance(e, OSError) and e.errno and e.filename), None)
    if "OfflineModeIsEnabled" in kinds:
        return UnreachableError(f"{hub} may not be asked: HF_HUB_OFFLINE is set", "unset it, or use what is cached")
    if isinstance(error, json.JSONDecodeError) or "FileMetadataError" in kinds:
        return no_hub(hub)
    if kinds & {"ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol"}:
        return UnreachableError(f"cannot reach {hub}: {_reason(error)}", "check the network, or HF_ENDPOINT")
    if "TimeoutException" in kinds:
        return UnreachableError(f"{hub} does not answer in time", "try again, or set HF_HUB_ETAG_TIMEOUT")
    if disk is not None and not isinstance(disk, ConnectionError):
        return HubError(f"cannot write {str(disk.filename)!r}: {disk.strerror}", "free space, or set HF_HOME elsewhere")
    if kinds & {"TransportError", "ConnectionError"} or "Consistency check" in str(error):
        cut = UnreachableError(f"the connection to {hub} broke ({_reason(error)})", "try again")
        cut.again = True
        return cut
    if "HFValidationError" in kinds:
        return UsageError(redact(str(error)), "names read owner/name")
    return HubError(f"{asked or hub}: {_reason(error)}", "try again; --debug shows where it failed")


def _reason(error: BaseException) -> str:
    """The innermost error in a few words."""
    inner = list(_chain(error))[-1]
    lines = str(inner).strip().splitlines()
    return redact(lines[0]) if lines else type(inner).__name__


def attempt(call: Callable[[], T], asked: Asked) -> T:
    """Call, and again after a wait where the hub was busy or the connection broke: three times at most.

    Waits 0.5 and 2 s, or what the hub asks for; one that asks for more than 10 s is not asked again.

    Raises:
        ZooError: as :func:`translate`.
    """
    for wait in (*_WAITS, None):
        try:
            return call()
        except Exception as error:
            known = translate(error, asked)
            if wait is None or not getattr(known, "again", False):
                raise known from error
            pause = min(max(getattr(known, "wait", None) or wait, 0.0), LONGEST_WAIT)
            log.warning("%s; trying again in %.1f s", known.message, pause)
            time.sleep(pause)
    raise AssertionError("unreachable")
