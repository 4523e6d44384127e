"""A total time for work that waits for others: no wait is silent, and none goes past the end."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from zoo_registry import HubError, UsageError

log = logging.getLogger("zoo.hub")

VARIABLE = "ZOO_PUSH_DEADLINE"
SECONDS = 3600.0
"""Of a push, where neither ``--deadline`` nor the variable says otherwise: long enough for large weights."""

sleep = time.sleep


class DeadlineError(HubError):
    """The time is over; ``deadline`` is what it was."""

    def __init__(self, what: str, deadline: Deadline) -> None:
        super().__init__(
            f"gave up after {duration(deadline.seconds)}, which is all the time there was: {what}",
            f"again with more time (--deadline SECONDS or {VARIABLE}); what has arrived is not sent again",
        )


class Deadline:
    """Seconds from now; None or infinity: no end."""

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = math.inf if seconds is None else seconds
        self.end = time.monotonic() + self.seconds

    def left(self) -> float:
        """Seconds until the end, never below 0."""
        return max(0.0, self.end - time.monotonic())

    def ends(self) -> str:
        """``; gives up in 45 s``, or nothing where there is no end."""
        return "" if math.isinf(self.end) else f"; gives up in {duration(self.left())}"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For work of our own in between: its time does not count."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.end += time.monotonic() - begun

    def wait(self, seconds: float, why: str) -> None:
        """Say why, and wait.

        Raises:
            DeadlineError: so much time is not left; it is not waited at all.
        """
        if seconds >= self.left():
            raise DeadlineError(f"{why}; the next try would be in {duration(seconds)}", self)
        log.warning("%s; trying again in %s", why, duration(seconds))
        sleep(seconds)


def push_deadline(seconds: float | None) -> Deadline:
    """What was asked for, else ``ZOO_PUSH_DEADLINE``, else an hour.

    Raises:
        UsageError: no number of seconds above 0.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        found = seconds if seconds is not None else float(text) if text else SECONDS
    except ValueError:
        found = math.nan
    if not found > 0:
        said = f"--deadline {seconds:g}" if seconds is not None else f"{VARIABLE}={text}"
        raise UsageError(f"{said} is no time to finish in", "seconds, above 0; 3600 by default")
    return Deadline(found)


def duration(seconds: float) -> str:
    """``0.5 s``, ``45 s``, ``3 min``, ``2.1 h``."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
