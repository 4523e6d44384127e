"""Progress of training: a live bar on a terminal, plain lines otherwise."""

from __future__ import annotations

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
        self.done = self.samples = 0
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
        parts = [f"epoch {row['epoch'] + 1}", f"loss {row['train_loss']:.4f}"]
        self.metric = ", ".join(f"{n} {v:.4f}" for n, v in leading(row.get("val", {})).items()) or self.metric
        parts += [self.metric] if row.get("val") else []
        parts.append(f"{self.rate():.0f} samples/s")
        left = self.left(int(row["step"]))
        return ", ".join(parts + ([f"{left} left"] if left else []))

    def rate(self) -> float:
        """Samples a second in this phase, evaluation included."""
        return self.samples / max(1e-9, time.monotonic() - self.begun)

    def left(self, step: int) -> str:
        """Time left in this phase, in words."""
        remaining = self.total - step
        if not self.done or remaining <= 0:
            return ""
        return duration((time.monotonic() - self.begun) / self.done * remaining)


class BarReporter(LineReporter):
    """A live bar with loss, speed and time left; epochs stay as lines above it."""

    def __init__(self, err: bool = False) -> None:
        super().__init__(err)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=err, highlight=False)
        self.progress: Progress = Progress(
            TextColumn("  [progress.description]{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self.console,
            transient=True,
        )
        self.task: Any = None

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

    def begin_phase(self, index: int, count: int, label: str, total_steps: int) -> None:
        """A new bar."""
        super().begin_phase(index, count, label, total_steps)
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.task = self.progress.add_task(label, total=total_steps or 1, detail="")

    def step(self, step: int, epoch: int, loss: float, samples: int) -> None:
        """Move the bar."""
        super().step(step, epoch, loss, samples)
        parts = [f"loss {loss:.3f}", self.metric, f"{self.rate():.0f} samples/s"]
        self.progress.update(self.task, completed=step, detail="  ".join(part for part in parts if part))


def open_reporter(as_json: bool) -> LineReporter:
    """A bar on a terminal, lines otherwise."""
    stream = sys.stderr if as_json else sys.stdout
    return BarReporter(as_json) if stream.isatty() else LineReporter(as_json)


def duration(seconds: float) -> str:
    """``45 s``, ``3 min``, ``2.1 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
