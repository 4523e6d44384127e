"""Where the defaults come from: rates and options tried on other draws, scored on a validation set, never on a test.

``python benchmarks/strategies/tune.py`` tries what ``benchmarks/results/strategies-tuning.jsonl`` does not hold yet and
writes ``strategies-tuning.md``. One default serves both starters and all tasks, so what counts is the mean over
starters, tasks and draws; a default moves to the best value only where that is better by more than a fifth of a point.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the workers inherit it

from grid import STARTERS, STEPS
from pool import Row, Task, measure, read_rows
from ways import WAYS

RESULTS = Path(__file__).resolve().parents[1] / "results"
TRIED = RESULTS / "strategies-tuning.jsonl"
SEEDS = (100, 101)
"""Draws that are not in the table."""
FEW = ("digits-2", "digits-5")
"""Where penalties are tuned."""

RATE = "rate"
Key = tuple[str, str, int, float, str, str, int]


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One number and the values tried.

    Attributes:
        way: the row of the table.
        what: ``rate`` of the phase ``phase`` (from 0), or the option's key as for ``--set``.
        values: in order.
        tasks: where they are tried.
        note: why the shipped value is another than the best, where it is.
    """

    way: str
    what: str = RATE
    values: tuple[float, ...]
    tasks: tuple[str, ...] = ("digits-5", "glyphs")
    phase: int = 0
    note: str = ""

    @property
    def name(self) -> str:
        """``full: rate``."""
        return f"{self.way}: {self.what}"


WITHIN = "The best is not better by more than a fifth of a point."

KNOBS = (
    Knob(way="full", values=(3e-4, 5e-4, 1e-3, 2e-3)),
    Knob(way="full", values=(1e-3,), tasks=("digits-2",), note="What the penalties are compared with."),
    Knob(way="lp-ft", values=(3e-4, 5e-4, 1e-3, 2e-3), phase=1),
    Knob(way="l2-sp", what="strategy.l2-sp.alpha", values=(0.001, 0.01, 0.1, 0.3, 1.0), tasks=FEW),
    Knob(way="lora", values=(1e-3, 2e-3, 5e-3)),
    Knob(way="lora", what="strategy.lora.rank", values=(2, 4, 8), note=WITHIN),
    Knob(way="delta", what="strategy.delta.alpha", values=(0.01, 0.1, 1.0), tasks=FEW),
    Knob(way="bss", what="strategy.bss.alpha", values=(0.001, 0.01, 0.1), tasks=FEW),
    Knob(way="distill", what="strategy.distill.alpha", values=(0.3, 1.0, 3.0), tasks=FEW, note=WITHIN),
    Knob(way="bitfit", values=(1e-3, 3e-3, 1e-2)),
    Knob(way="norm", values=(1e-3, 3e-3, 1e-2)),
    Knob(way="gradual", values=(5e-4, 1e-3, 2e-3)),
    Knob(way="dora", values=(2e-3, 5e-3, 1e-2)),
    Knob(way="ia3", values=(3e-3, 1e-2, 3e-2)),
    Knob(way="adalora", values=(5e-3, 1e-2, 2e-2)),
    Knob(way="partial", values=(1e-3, 3e-3)),
    Knob(way="linear", values=(1e-3, 3e-3, 1e-2, 3e-2), note=WITHIN),
    Knob(
        way="llrd",
        what="strategy.llrd.decay",
        values=(0.5, 0.75, 0.9),
        note="The starters have few blocks; over the twelve of a ViT-B 0.5 leaves nothing of the rate.",
    ),
    Knob(way="logit-adjustment", what="strategy.logit-adjustment.tau", values=(0.5, 1.0, 2.0), tasks=("imbalanced",)),
    Knob(
        way="focal",
        what="strategy.focal.gamma",
        values=(1.0, 2.0, 4.0),
        tasks=("imbalanced",),
        note="The paper's; a larger one gains accuracy and loses likelihood.",
    ),
    Knob(way="class-balanced", what="strategy.class-balanced.power", values=(0.5, 1.0), tasks=("imbalanced",)),
    Knob(way="scratch", values=(3e-4, 1e-3, 3e-3), tasks=("digits-10",)),
)


def missing(knobs: list[Knob], starters: list[str], known: set[Key]) -> list[Task]:
    """The trials that have no row yet."""
    keys = [
        (knob.way, knob.what, knob.phase, value, task, starter, seed)
        for knob in knobs for seed in SEEDS for task in knob.tasks for starter in starters for value in knob.values
    ]  # fmt: skip
    return [(trial, key, {}) for key in keys if key not in known and possible(key[0], key[5])]


@cache
def possible(way: str, starter: str) -> bool:
    """Whether the starter has what the strategy needs."""
    from cell import plan
    from zoo_registry import ZooError

    try:
        plan("digits-1", WAYS[way], starter, 0, steps=STEPS)
    except ZooError:
        return False
    return True


def trial(way: str, what: str, phase: int, value: float, task: str, starter: str, seed: int) -> Row:
    """One run with one value, scored on ``val``."""
    from cell import run_cell

    rates = {phase: value} if what == RATE else None
    settings = () if what == RATE else (f"{what}={value:g}",)
    row = run_cell(task, WAYS[way], starter, seed, steps=STEPS, tests=("val",), rates=rates, settings=settings)
    return row | {"what": what, "phase": phase, "setting": value}


def key(row: Row) -> Key:
    """What names a trial."""
    return row["way"], row["what"], row["phase"], row["setting"], row["task"], row["starter"], row["seed"]


def best(scores: dict[float, list[Row]]) -> float:
    """The value with the best mean accuracy."""
    return max(scores, key=lambda v: statistics.mean(r["val"]["accuracy"] for r in scores[v]))


def report(rows: list[Row]) -> str:
    """The Markdown page: a table for each knob, the best value marked, the shipped one named."""
    assert __doc__
    lines = ["# Tuning of the strategies' defaults", "", "Command: `python benchmarks/strategies/tune.py`", ""]
    lines += [__doc__.partition("\n\n")[2].replace("\n", " ").strip(), ""]
    lines += [f"Draws {', '.join(map(str, SEEDS))}, {STEPS} steps: mean accuracy on val (negative log-likelihood).", ""]
    waiting = []
    for knob in KNOBS:
        found: dict[float, list[Row]] = defaultdict(list)
        for row in rows:
            if (row["way"], row["what"]) == (knob.way, knob.what) and row["task"] in knob.tasks:
                found[row["setting"]].append(row)
        if found:
            lines += _section(knob, dict(sorted(found.items())))
        else:
            waiting.append(f"`{knob.name}` ({', '.join(f'{v:g}' for v in knob.values)})")
    if waiting:
        lines += [f"Not tried yet, the default is what it was: {'; '.join(waiting)}.", ""]
    return "\n".join(lines) + "\n"


def _section(knob: Knob, found: dict[float, list[Row]]) -> list[str]:
    columns = sorted({(row["task"], row["starter"]) for rows in found.values() for row in rows})
    lines = [f"## `{knob.name}`", "", "| value | mean |" + "".join(f" {t}, {s} |" for t, s in columns)]
    lines += ["|---" * (len(columns) + 2) + "|"]
    chosen = best(found)
    for value, rows in found.items():
        cells = [[r["val"] for r in rows if (r["task"], r["starter"]) == column] for column in columns]
        parts = [_both(cell) for cell in [[r["val"] for r in rows], *cells]]
        name = f"**{value:g}**" if value == chosen else f"{value:g}"
        lines.append("| " + " | ".join([name, *parts]) + " |")
    return [*lines, "", f"Ships: {shipped(knob)}.{' ' + knob.note if knob.note else ''}", ""]


def _both(rows: list[dict[str, float]]) -> str:
    if not rows:
        return ""
    return f"{statistics.mean(r['accuracy'] for r in rows):.3f} ({statistics.mean(r['nll'] for r in rows):.2f})"


def shipped(knob: Knob) -> str:
    """The value that the row has today."""
    from cell import plan

    if not WAYS[knob.way].pretrained:
        from ways import SCRATCH

        return ", ".join(f"{rate:g} for `{starter}`" for starter, rate in SCRATCH.items()) + " in the table alone"
    phase = plan("digits-1", WAYS[knob.way], "vit", 0, steps=STEPS).recipe.phases[knob.phase]
    if knob.what == RATE:
        return f"{phase.rate:g}"
    _, name, option = knob.what.split(".")
    return next(f"{c.options[option]}" for c in phase.strategies if c.name.endswith("/" + name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", nargs="+", choices=sorted({k.way for k in KNOBS}), default=None)
    parser.add_argument("--starters", nargs="+", choices=STARTERS, default=list(STARTERS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes of one thread each")
    parser.add_argument("--report", action="store_true", help="try nothing, write the page")
    options = parser.parse_args()
    failed = 0
    if not options.report:
        knobs = [k for k in KNOBS if options.strategies is None or k.way in options.strategies]
        known = {key(row) for row in read_rows(TRIED)}
        failed = measure(missing(knobs, options.starters, known), TRIED, options.jobs)
    (RESULTS / "strategies-tuning.md").write_text(report(read_rows(TRIED)), encoding="utf-8")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
