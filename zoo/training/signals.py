"""SIGINT and SIGTERM: while training, finish the step, write a checkpoint, stop; elsewhere stop at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from zoo_registry import RunStoppedError


class InterruptedRunError(RunStoppedError):
    """A signal stopped the run; the exit code is 128 + its number."""

    kind = "interrupted"

    def __init__(self, message: str, number: int, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + number


class StopSignal:
    """Context that takes SIGINT and SIGTERM; does nothing outside the main thread, and nothing unless entered.

    Args:
        hint: the next step, for the error.

    Attributes:
        number: the signal that came, 0 where none did.
    """

    def __init__(self, hint: str | None = None) -> None:
        self.hint = hint
        self.number = 0
        self._pid = os.getpid()
        self._deferred = False
        self._old: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.number != 0

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While this lasts a signal is only noted, a second SIGINT excepted; at its end it raises."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested:
            raise self.error()

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a data worker, forked with this handler
            os._exit(128 + number)
        again = self.requested and number == signal.SIGINT
        self.number = number
        if again or not self._deferred:
            raise self.error()

    def error(self) -> InterruptedRunError:
        """The error to raise once the state is safe."""
        return InterruptedRunError(f"stopped by {signal.Signals(self.number).name}", self.number, self.hint)
