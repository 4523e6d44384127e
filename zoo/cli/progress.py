"""Progress of training: a live bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.output import counted
from zoo.training.progress import Reporter

if TYPE_CHECKING:
    from rich.progress import Progress


WIDE = 100
"""Columns from which on the bar is long."""
SHOWN_EVERY = 0.1
"""Seconds between two looks of the bar."""


def leading(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The first metric of each target column (``column.metric`` where there are several), of four columns at most."""
    first: dict[str, str] = {}
    for name, value in metrics.items():
        if value is not None:
            first.setdefault(name.rpartition(".")[0], name)
    return {name: metrics[name] for name in list(first.values())[:4]}


class LineReporter(Reporter):
    """A line an epoch, on stderr where stdout carries JSON."""

    def __init__(self, err: bool = False) -> None:
        self.err = err
        self.count = 1
        self.total = 0
        self.begun = time.monotonic()
        self.done = self.samples = self.index = 0
        self.metric = ""

    def say(self, text: str) -> None:
        """Print a line."""
        click.echo(text, err=self.err)

    def note(self, text: str) -> None:
        """A line of its own."""
        self.say(text)

    def begin_phase(self, index: int, count: int, label: str, total_steps: int) -> None:
        """Name the phase."""
        self.count, self.total, self.begun, self.done, self.samples = count, total_steps, time.monotonic(), 0, 0
        self.index = index
        steps = counted(total_steps, "step") if total_steps else "no steps"
        self.say(f"phase {index + 1} of {count}: {label} ({steps})")

    def step(self, step: int, epoch: int, loss: float, samples: int) -> None:
        """Count."""
        self.done += 1
        self.samples += samples

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Loss, metrics, speed and time left."""
        self.say("  " + self.describe(row))

    def describe(self, row: Mapping[str, Any]) -> str:
        """An epoch in one line."""
        number = int(row["epoch"]) + 1
        all_epochs = -(-self.total * number // max(1, int(row["step"])))
        whole = f"/{all_epochs}" if self.total and row["step"] <= self.total else ""
        parts = [f"epoch {number}{whole}", f"loss {row['train_loss']:.4f}"]
        self.metric = ", ".join(f"{n} {v:.4f}" for n, v in leading(row.get("val", {})).items()) or self.metric
        parts += [self.metric] if row.get("val") else []
        rates = row.get("learning_rates")
        parts += [f"rate {rates[0]:.2g}"] if rates else []
        speed = row.get("machine", {}).get("samples_per_second") or self.rate()
        parts.append(f"{speed:,.0f} samples/s")
        left = self.left(int(row["step"]))
        where = " in this phase" if self.index + 1 < self.count else ""
        return ", ".join(parts + ([f"{left} left{where}"] if left else []))

    def rate(self) -> float:
        """Samples a second in this phase, evaluation included."""
        return self.samples / max(1e-9, time.monotonic() - self.begun)

    def left(self, step: int) -> str:
        """Time left in this phase, in words; none of what is over in a second."""
        remaining = self.total - step
        if not self.done or remaining <= 0:
            return ""
        seconds = (time.monotonic() - self.begun) / self.done * remaining
        return duration(seconds) if seconds >= 1 else ""


class BarReporter(LineReporter):
    """A live bar with loss, speed and time left; epochs stay as lines above it.

    The loss is a running mean of about the last ten steps. The bar moves ten times a second at most, so that a step of
    a small model pays next to nothing for it.
    """

    def __init__(self, err: bool = False) -> None:
        super().__init__(err)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.console = Console(stderr=err, highlight=False)
        narrow = self.console.width < WIDE
        self.progress: Progress = Progress(
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=12 if narrow else 28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=self.console,
            transient=True,
        )
        self.task: Any = None
        self.at = 0
        self.loss = math.nan
        self.shown = self.speed = 0.0
        self.mark: tuple[float, int] | None = None

    def __enter__(self) -> BarReporter:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def doing(self, text: str) -> None:
        """Say it beside the bar; the speed is counted anew afterwards."""
        self.mark = None
        if self.task is not None:
            self.progress.update(self.task, completed=self.at, detail=text)

    def begin_phase(self, index: int, count: int, label: str, total_steps: int) -> None:
        """A new bar."""
        super().begin_phase(index, count, label, total_steps)
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.at, self.loss, self.speed, self.mark = 0, math.nan, 0.0, None
        self.task = self.progress.add_task(label, total=total_steps or None, detail="")

    def step(self, step: int, epoch: int, loss: float, samples: int) -> None:
        """Move the bar."""
        super().step(step, epoch, loss, samples)
        self.at = step
        self.loss = loss if math.isnan(self.loss) else 0.9 * self.loss + 0.1 * loss
        now = time.monotonic()
        if self.mark is None:
            self.mark = (now, self.samples)
        if now - self.shown >= SHOWN_EVERY:
            self.shown = now
            self.progress.update(self.task, completed=step, detail=self._detail(step, now))

    def _detail(self, step: int, now: float) -> str:
        begun, before = self.mark or (now, self.samples)
        if now > begun:
            self.speed = (self.samples - before) / (now - begun)
        parts = [f"loss {self.loss:.3f}", self.metric, f"{self.speed:,.0f} samples/s" if self.speed else ""]
        left = self.left(step)
        return "  ".join(part for part in [*parts, f"{left} left" if left else ""] if part)


def open_reporter(as_json: bool) -> LineReporter:
    """A bar on a terminal, lines otherwise."""
    stream = sys.stderr if as_json else sys.stdout
    return BarReporter(as_json) if stream.isatty() else LineReporter(as_json)


def duration(seconds: float) -> str:
    """``45 s``, ``3 min``, ``2.1 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
