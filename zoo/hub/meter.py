"""Telling how far a download is: huggingface_hub's progress bars turned into calls of a ``Progress``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zoo.hub.base import Progress


class Meter:
    """Counts the bytes of a transfer for a :data:`~zoo.hub.base.Progress`.

    ``done`` is how many of the current file's ``size`` are here; ``moved`` only grows, with every sign of life.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.base = progress, total, 0
        self.name, self.size, self.done, self.moved = "", 0, 0, 0

    def begin(self, name: str, size: int) -> None:
        """A file begins."""
        self.name, self.size, self.done = name, size, 0

    def end(self) -> None:
        """The file is there."""
        self.base += self.size
        self._tell(0)

    def _tell(self, more: int) -> None:
        if self.progress is not None:
            self.progress(self.name, min(self.base + more, self.total), self.total)

    def bar(self, each: Callable[[], None] = lambda: None) -> type:
        """A class that huggingface_hub takes for a progress bar; ``each`` is called as bytes come."""
        meter = self

        class Bar:
            """Forwards the bytes; everything else that a bar can do is done by doing nothing."""

            total: int | None = None

            def __init__(self, *args: object, initial: int = 0, **kwargs: object) -> None:
                self.n = initial or 0

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *exc: object) -> None:
                pass

            def update(self, n: float | None = 1) -> None:
                self.n += int(n or 0)
                meter.done = self.n
                meter.moved += 1
                meter._tell(min(self.n, meter.size))
                each()

            def update_transfer(self, n: float | None = 1) -> None:
                meter.moved += 1

            def __getattr__(self, name: str) -> Any:
                return lambda *args, **kwargs: None

        return Bar
