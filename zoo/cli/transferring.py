"""How far a transfer is: a bar on a terminal, now and then a line otherwise; on the standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from zoo.cli.output import short_number
from zoo.hub.base import Progress

LINE_SECONDS = 30.0
"""Where there is no terminal a line comes so often."""


@contextmanager
def open_transfer() -> Iterator[Progress]:
    """A :data:`zoo.hub.base.Progress` that shows itself once there is something to show."""
    shown = _Bar() if sys.stderr.isatty() else _Lines()
    try:
        yield shown
    finally:
        shown.end()


class _Lines:
    def __init__(self) -> None:
        self.said = 0.0

    def __call__(self, name: str, done: int, total: int) -> None:
        self.said = self.said or time.monotonic()  # from the first bytes on
        if time.monotonic() - self.said >= LINE_SECONDS:
            self.said = time.monotonic()
            click.echo(f"  {name}: {short_number(done)}B of {short_number(total)}B in all", err=True)

    def end(self) -> None:
        """Nothing to end."""


class _Bar(_Lines):
    """Begins with the first bytes, so that nothing is drawn for a transfer that has nothing to move."""

    def __init__(self) -> None:
        super().__init__()
        self.bar: Any = None
        self.task: Any = None

    def __call__(self, name: str, done: int, total: int) -> None:
        if self.bar is None:
            self._begin(total)
        self.bar.update(self.task, completed=done, total=total, description=name)

    def _begin(self, total: int) -> None:
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("  {task.description}", markup=False),
            progress.BarColumn(bar_width=28),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(compact=True),
        )
        self.bar = progress.Progress(*columns, console=Console(stderr=True, highlight=False), transient=True)
        self.bar.start()
        self.task = self.bar.add_task("", total=total)

    def end(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
