"""Data workers and signals: no worker's death disturbs a step, and a signal to all ends the main one first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

GRACE = 60
"""Seconds that a worker outlives a SIGTERM, which a job scheduler sends to every process of a job at once."""


class _Deaths:
    """Torch raises a worker's death wherever the main thread happens to be, even in the middle of an optimiser's step.

    Its handler is put off until the main thread waits for a batch: there nothing is half done.
    """

    def __init__(self) -> None:
        self.waiting = False
        self.noted = False
        self.tell: Callable[..., Any] | None = None

    def watch(self) -> None:
        """Take the place of torch's handler, which it sets when the first loader starts workers."""
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
            return
        found = signal.getsignal(signal.SIGCHLD)
        if callable(found) and found != self.take:
            self.tell = found
            signal.signal(signal.SIGCHLD, self.take)

    def take(self, number: int, frame: Any) -> None:
        """The handler of SIGCHLD."""
        if not self.waiting:
            self.noted = True
        elif self.tell is not None:
            self.tell(number, frame)


_deaths = _Deaths()
watch = _deaths.watch


@contextmanager
def waiting() -> Iterator[None]:
    """While this lasts the death of a worker raises.

    Raises:
        RuntimeError: a worker is dead (torch's words).
    """
    before, _deaths.waiting = _deaths.waiting, True
    try:
        if _deaths.noted and _deaths.tell is not None:
            _deaths.noted = False
            _deaths.tell(signal.SIGCHLD, None)
        yield
    finally:
        _deaths.waiting = before


def start_worker(worker: int) -> None:
    """For ``worker_init_fn``: Ctrl-C is for the main process, which ends its workers; so is SIGTERM, for a while."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, linger)


def linger(number: int, _frame: Any) -> None:
    """A worker's handler of SIGTERM: the first is the scheduler's, the second the main process's."""
    if number in _lingering:
        os._exit(128 + number)
    _lingering.add(number)
    if hasattr(signal, "alarm"):
        signal.alarm(GRACE)


_lingering: set[int] = set()
