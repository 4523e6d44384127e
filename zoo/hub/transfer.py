"""One download by huggingface_hub that nobody has to wait for in silence.

huggingface_hub waits in many ways without a word: 6 tries at a busy hub with whatever pause it asks for, 5 at a broken
connection, for ever at a lock that another process holds, up to 100 s within hf_xet. Here the call runs in a thread of
its own and is watched: what another process does to get the same file counts as going on, a sixth of :func:`patience`
without a byte is told, and after all of it the call is given up. A busy hub's answer is raised at once, so that the
one place that waits (:func:`zoo.hub.hf_errors.attempt`) can say so; a connection that breaks is told, and given up when
it breaks three times without a byte in between.

A call that was given up ends by itself, at its next byte or its next read's timeout; it can leave nothing but a
stray ``.incomplete`` file, which is swept after a day.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from zoo_registry.errors import IntegrityError

from zoo.hub.hf_errors import Asked, UnreachableError, busy_error
from zoo.hub.meter import Meter

log = logging.getLogger("zoo.hub")
T = TypeVar("T")
CHUNK = 128 * 1024
"""Bytes in which huggingface_hub is made to take a file: what arrived is seen, and resumed from, in such steps."""
BREAKS = 3
_current = threading.local()


def patience() -> float:
    """Seconds without a byte after which a download is given up: three times ``HF_HUB_DOWNLOAD_TIMEOUT`` (10)."""
    from huggingface_hub import constants

    return 3.0 * float(constants.HF_HUB_DOWNLOAD_TIMEOUT)


class Transfer(Generic[T]):
    """A download under watch.

    Args:
        asked: what for, for the messages.
        meter: whose bar huggingface_hub moves.
        elsewhere: a number that changes while any process is writing the same file.
        lock: the lock file that huggingface_hub takes meanwhile.
    """

    def __init__(self, asked: Asked, meter: Meter, elsewhere: Callable[[], int], lock: str | None = None) -> None:
        self.asked, self.meter, self.elsewhere, self.lock = asked, meter, elsewhere, lock
        self.given_up = False
        self.found: list[T] = []
        self.failed: BaseException | None = None
        self._done = threading.Event()
        self._asks: Counter[str] = Counter()
        self._breaks, self._moved = 0, -1

    def run(self, call: Callable[[], T]) -> T:
        """The call's result.

        Raises:
            UnreachableError: nothing came for too long, or the connection keeps breaking.
            Exception: what the call raises.
        """
        _install()
        threading.Thread(target=self._work, args=(call,), name="zoo-download", daemon=True).start()
        try:
            self._watch()
        except BaseException:
            self.given_up = True
            with contextlib.suppress(Exception):  # its threads are not ours to stop otherwise
                from huggingface_hub.utils._xet import abort_xet_session

                abort_xet_session()
            self._done.wait(1.0)  # to clear up behind itself, where it still can
            raise
        if self.failed is not None:
            raise self.failed
        return self.found[0]

    def _work(self, call: Callable[[], T]) -> None:
        _current.transfer = self
        try:
            self.found.append(call())
        except BaseException as error:
            self.failed = error
        finally:
            _current.transfer = None
            self._done.set()

    def _watch(self) -> None:
        limit, state, told = patience(), self._state(), False
        since = time.monotonic()
        while not self._done.wait(min(1.0, limit / 10)):
            now = self._state()
            if now != state:
                state, since, told = now, time.monotonic(), False
            silent = time.monotonic() - since
            if silent >= limit:
                raise self._silence(silent)
            if silent >= limit / 6 and not told:
                told = True
                log.warning("%s: nothing came for %.0f s; waiting up to %.0f s", self._what(), silent, limit)

    def _state(self) -> tuple[int, int]:
        return self.meter.moved, self.elsewhere()

    def _what(self) -> str:
        return f"{self.asked.filename} of {self.asked.name} from {self.asked.endpoint}"

    def _silence(self, seconds: float) -> UnreachableError:
        if self.lock is not None and not self._asks and _is_held(self.lock):
            return UnreachableError(
                f"another process has held {self.lock!r} for {seconds:.0f} s and gets nothing of {self.asked.filename}",
                "end that process, or wait for it; then try again",
            )
        return UnreachableError(f"{self._what()}: nothing came for {seconds:.0f} s", "try again later")

    # ------------------------------------------------------------------ called in the thread

    def asks(self, request: Any) -> None:
        """A request is about to go out; the second for the same bytes means that the connection broke."""
        self.check()
        if request.method != "GET":
            return
        url = str(request.url).partition("?")[0]
        self._asks[url] += 1
        if self._asks[url] == 1:
            return
        self._breaks = self._breaks + 1 if self.meter.moved == self._moved else 1
        self._moved = self.meter.moved
        if self._breaks >= BREAKS:
            raise UnreachableError(f"{self._what()}: the connection broke {self._breaks} times", "try again later")
        log.warning("%s: the connection broke; going on where it was", self._what())

    def hears(self, response: Any) -> None:
        """An answer; a busy hub's is raised, before huggingface_hub waits as long as it is told to."""
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise busy_error(response, self.asked.endpoint)

    def check(self) -> None:
        """Bytes came, or are asked for.

        Raises:
            UnreachableError: nobody waits for them any more.
            IntegrityError: they are more than the hub said.
        """
        if self.given_up:
            raise UnreachableError(f"{self._what()}: given up")
        if self.meter.done > self.meter.size:
            raise IntegrityError(
                f"{self.asked}: {self.asked.filename} has more than the {self.meter.size} bytes that "
                f"{self.asked.endpoint} announced",
                "do not use this hub",
            )


def on_bytes() -> None:
    """Called by the meter's bar in whatever thread moves it; does nothing outside of a transfer's."""
    if (transfer := getattr(_current, "transfer", None)) is not None:
        transfer.check()


def _on_request(request: Any) -> None:
    if (transfer := getattr(_current, "transfer", None)) is not None:
        transfer.asks(request)


def _on_response(response: Any) -> None:
    if (transfer := getattr(_current, "transfer", None)) is not None:
        transfer.hears(response)


def _install() -> None:
    """Hooks on huggingface_hub's session, which do nothing but in a transfer's thread; once a session."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    session = get_session()
    hooks = session.event_hooks
    if _on_request not in hooks["request"]:
        session.event_hooks = {
            "request": [*hooks["request"], _on_request],
            "response": [*hooks["response"], _on_response],
        }
    constants.DOWNLOAD_CHUNK_SIZE = min(constants.DOWNLOAD_CHUNK_SIZE, CHUNK)


def _is_held(lock: str) -> bool:
    """Whether another process has the lock now."""
    with contextlib.suppress(Exception):
        from filelock import FileLock, Timeout

        probe = FileLock(lock)
        try:
            probe.acquire(timeout=0)
        except Timeout:
            return True
        probe.release()
    return False
