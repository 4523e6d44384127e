"""Progress of work whose end is not always known: a bar on a terminal, now and then a line otherwise."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

import click

from zoo.cli.output import counted

LINE_SECONDS = 30.0
"""Where there is no terminal a line comes so often."""


class Counter:
    """Counts on the standard error; prints a line every :data:`LINE_SECONDS`.

    Args:
        noun: what is counted.
        total: how many there are, None where nobody knows.
    """

    def __init__(self, noun: str, total: int | None = None) -> None:
        self.noun, self.total = noun, total
        self.count = self.before = 0
        self.begun = self.said = time.monotonic()

    def __enter__(self) -> Counter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to end."""

    def start_at(self, count: int) -> None:
        """So many were done before."""
        self.before = self.count = count
        self.begun = time.monotonic()
        self.show()

    def add(self, count: int) -> None:
        """So many more are done."""
        self.count += count
        self.show()

    def show(self) -> None:
        """Print a line where it is time."""
        if time.monotonic() - self.said >= LINE_SECONDS:
            self.said = time.monotonic()
            click.echo(f"  {counted(self.count, self.noun)}, {self.speed()}", err=True)

    def speed(self) -> str:
        """``120/s``."""
        return f"{(self.count - self.before) / max(1e-9, time.monotonic() - self.begun):,.0f}/s"


class BarCounter(Counter):
    """A live bar, or a count that moves where the total is not known."""

    def __init__(self, noun: str, total: int | None = None) -> None:
        super().__init__(noun, total)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        end = TimeRemainingColumn(compact=True) if total is not None else TimeElapsedColumn()
        columns = [BarColumn(bar_width=28), TextColumn("{task.fields[detail]}"), end]
        self.progress = Progress(*columns, console=Console(stderr=True, highlight=False), transient=True)
        self.task: Any = self.progress.add_task(noun, total=total, detail="")

    def __enter__(self) -> BarCounter:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def show(self) -> None:
        """Move the bar."""
        of = f" of {self.total:,}" if self.total is not None else ""
        detail = f"{self.count:,}{of} {self.noun}s  {self.speed()}"
        self.progress.update(self.task, completed=self.count, detail=detail)


def open_counter(noun: str, total: int | None = None, *, quiet: bool = False) -> Counter:
    """A bar where the standard error is a terminal (``quiet``: and the standard output is not), else lines."""
    if sys.stderr.isatty() and not (quiet and sys.stdout.isatty()):
        return BarCounter(noun, total)
    return Counter(noun, total)
