"""A word now and then while a long list of files is read, so that nobody takes a slow disk for a hanging program."""

from __future__ import annotations

import logging
import time

log = logging.getLogger("zoo.data.listing")

FIRST_SECONDS = 1.0
_EVERY = 64


class Ticker:
    """Counts files and says how many after 1 s, and then after twice as long each time."""

    def __init__(self) -> None:
        self.files = 0
        self._start = time.monotonic()
        self._pause = FIRST_SECONDS

    def count(self) -> None:
        """One more file."""
        self.files += 1
        if not self.files % _EVERY:
            self.look()

    def look(self) -> None:
        """Say it if it is time."""
        if time.monotonic() - self._start >= self._pause:
            self._pause *= 2
            log.info("listing the data: %s files so far", f"{self.files:,}")
