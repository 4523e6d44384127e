"""SIGINT and SIGTERM: while training, finish the step, write a checkpoint, stop; elsewhere stop at once.

A step is never broken off. Where training only waits (for a batch, for an evaluation) a signal breaks in at once, and
the checkpoint is written then. A second SIGTERM changes nothing, as schedulers send several; a second Ctrl-C does not
wait for the checkpoint, and the one before it holds.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from zoo_registry import RunStoppedError

from zoo.data.workers import linger


class InterruptedRunError(RunStoppedError):
    """A signal stopped the run; the exit code is 128 + its number."""

    kind = "interrupted"

    def __init__(self, message: str, number: int, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + number


class Interrupt(KeyboardInterrupt):
    """Raised by the handler. Nothing on the way takes it for a sample that cannot be read or a plugin that fails."""


class StopSignal:
    """Context that takes SIGINT and SIGTERM; does nothing outside the main thread, and nothing unless entered.

    Args:
        hint: the next step, for the error.

    Attributes:
        hint: may change as the run goes on.
        number: the signal that came, 0 where none did.
        waiting: within :meth:`deferred`: nothing is half done, so a signal may raise :class:`Interrupt` at once.
    """

    def __init__(self, hint: str | None = None) -> None:
        self.hint = hint
        self.number = 0
        self.waiting = False
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Put the handlers back.

        Raises:
            InterruptedRunError: a signal is why it ends.
        """
        for number, handler in self._old.items():
            signal.signal(number, handler)
        if isinstance(error, Interrupt):
            raise self.error() from None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While this lasts a signal is only noted, but for a second SIGINT and while ``waiting``; at its end it raises.

        Raises:
            InterruptedRunError: there was a signal.
        """
        self._deferred, self.waiting = True, False
        try:
            yield
        finally:
            self._deferred = self.waiting = False
        if self.requested:
            raise self.error()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a data worker, forked with this handler
            linger(number, frame)
            return
        again = self.requested and number == signal.SIGINT
        self.number = number
        if again or self.waiting or not self._deferred:
            self.waiting = False
            raise Interrupt

    def error(self) -> InterruptedRunError:
        """The error to raise once the state is safe."""
        return InterruptedRunError(f"stopped by {signal.Signals(self.number).name}", self.number, self.hint)
