"""The rows as numbers: means, spreads and paired differences."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
CLEAN, SHIFTED, WORST, MACRO = "accuracy", "shifted", "worst", "macro_f1"


@dataclass(frozen=True)
class Stat:
    """Mean and sample deviation over the draws."""

    mean: float
    spread: float
    draws: int

    def text(self) -> str:
        """``0.953 ± 0.006``, and the number of draws where it is not five."""
        return f"{self.mean:.3f} ± {self.spread:.3f}" + ("" if self.draws == 5 else f" (n={self.draws})")


@dataclass(frozen=True)
class Pair:
    """A row less another, draw by draw: mean difference, its deviation, and how many draws were won, and lost."""

    mean: float
    spread: float
    won: int
    lost: int
    draws: int

    def text(self) -> str:
        """``+1.2 (4/5)``: points of a hundred, draws won."""
        return f"{100 * self.mean:+.1f} ({self.won}/{self.draws})"


def value(row: Row, metric: str) -> float | None:
    """A metric of a row; ``shifted`` is the mean over the shifts, ``shift.noise`` one of them. None: not measured."""
    if metric == SHIFTED:
        return statistics.mean(row["shifts"].values()) if row.get("shifts") else None
    if metric.startswith("shift."):
        return row.get("shifts", {}).get(metric.partition(".")[2])
    return row["test"][metric]


class Table:
    """All rows, by (task, way, starter) and draw."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows: dict[tuple[str, str, str], dict[int, Row]] = defaultdict(dict)
        for row in rows:
            self.rows[row["task"], row["way"], row["starter"]][row["seed"]] = row

    def has(self, task: str, way: str, starter: str) -> bool:
        """Whether there is any draw of this cell."""
        return (task, way, starter) in self.rows

    def first(self, task: str, way: str, starter: str) -> Row:
        """A row of the cell, for what is equal in all draws."""
        return next(iter(self.rows[task, way, starter].values()))

    def draws(self, task: str, way: str, starter: str, metric: str = CLEAN) -> dict[int, float]:
        """Seed -> value."""
        found = {s: value(row, metric) for s, row in sorted(self.rows.get((task, way, starter), {}).items())}
        return {seed: number for seed, number in found.items() if number is not None}

    def stat(self, task: str, way: str, starter: str, metric: str = CLEAN) -> Stat | None:
        """Mean and spread; None where nothing was measured."""
        values = list(self.draws(task, way, starter, metric).values())
        if not values:
            return None
        return Stat(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))

    def pair(self, task: str, way: str, other: str, starter: str, metric: str = CLEAN) -> Pair | None:
        """``way`` less ``other`` over the draws that both have; None where there are none."""
        mine, theirs = (self.draws(task, name, starter, metric) for name in (way, other))
        differences = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
        if not differences:
            return None
        spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
        won, lost = sum(d > 1e-9 for d in differences), sum(d < -1e-9 for d in differences)
        return Pair(statistics.mean(differences), spread, won, lost, len(differences))

    def seconds(self, task: str, way: str, starter: str) -> float | None:
        """Median seconds of training."""
        found = [row["seconds"] for row in self.rows.get((task, way, starter), {}).values()]
        return statistics.median(found) if found else None
