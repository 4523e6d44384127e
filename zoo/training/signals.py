"""SIGINT and SIGTERM while training: finish the step, write a checkpoint, stop; a second SIGINT stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from zoo_registry import RunStoppedError


class InterruptedRunError(RunStoppedError):
    """A signal stopped the run."""

    kind = "interrupted"

    def __init__(self, message: str, number: int, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + number


class StopSignal:
    """Context in which SIGINT and SIGTERM set :attr:`requested`; does nothing outside the main thread."""

    def __init__(self) -> None:
        self.number = 0
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

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self.number = number

    def error(self, resumable: bool) -> InterruptedRunError:
        """The error to raise once the state is safe."""
        name = signal.Signals(self.number).name
        hint = "go on with: zoo finetune --resume --out RUN" if resumable else None
        return InterruptedRunError(f"stopped by {name}", self.number, hint)
