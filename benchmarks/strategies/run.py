"""The proof: every strategy on tasks that exist everywhere, on both starters, five paired draws.

``python benchmarks/strategies/run.py`` measures what ``benchmarks/results/strategies-rows.jsonl`` does not hold yet,
or holds from other defaults, and writes ``strategies.md``, ``strategies.json`` and ``strategies.png`` beside it. It may
be stopped at any time and goes on from there; ``--tasks --strategies --starters --seeds`` measure a part. No download,
no GPU. ``tune.py`` says where the defaults come from.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the workers inherit it

from grid import SEEDS, STARTERS, STEPS, cells
from pool import Row, Task, measure, read_rows, write_rows
from tasks import TASKS
from ways import WAYS
from zoo_registry import ZooError

RESULTS = Path(__file__).resolve().parents[1] / "results"
ROWS = RESULTS / "strategies-rows.jsonl"

Key = tuple[str, str, str, int]


def key(row: Row) -> Key:
    """Task, way, starter and seed of a row."""
    return row["task"], row["way"], row["starter"], row["seed"]


def missing(asked: list[tuple[str, str, str]], seeds: tuple[int, ...], known: dict[Key, Row]) -> list[Task]:
    """The cells without a row of the recipe that they resolve to today, one seed after the other."""
    from cell import plan, resolved_digest, run_cell

    today: dict[Key, str] = {}
    for task, way, starter in asked:
        try:
            # The recipe is the same for all draws, but where the classes drawn are in it.
            drawn = {s: plan(task, WAYS[way], starter, s, steps=STEPS).recipe for s in _telling(way, seeds)}
        except ZooError as error:
            print(f"left out: {task} {way} {starter}: {error}", file=sys.stderr)
            continue
        for seed in seeds:
            today[task, way, starter, seed] = resolved_digest(drawn.get(seed, drawn[seeds[0]]))
    return [
        (run_cell, (task, WAYS[way], starter, seed), {"steps": STEPS})
        for task, way, starter, seed in sorted(today, key=lambda cell: cell[3])
        if known.get((task, way, starter, seed), {}).get("recipe") != today[task, way, starter, seed]
    ]


def _telling(way: str, seeds: tuple[int, ...]) -> tuple[int, ...]:
    return seeds if WAYS[way].inverse else seeds[:1]


def drop_old(path: Path) -> None:
    """Keep the newest row of each cell that is in the table; not while another process appends to the file."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another process measures: old rows stay in the file", file=sys.stderr)
            return
        rows = read_rows(path)
        asked = set(cells())
        newest = {key(row): row for row in rows if key(row)[:3] in asked}
        if len(newest) < len(rows):
            write_rows(path, newest.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--strategies", nargs="+", choices=tuple(WAYS), default=list(WAYS), help="rows of the table")
    parser.add_argument("--starters", nargs="+", choices=STARTERS, default=list(STARTERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes of one thread each")
    parser.add_argument("--again", action="store_true", help="measure these cells even where they are known")
    parser.add_argument(
        "--report", action="store_true", help="measure nothing, drop what is out of date, write the report"
    )
    options = parser.parse_args()
    failed = 0
    if not options.report:
        asked = cells(tuple(options.tasks), tuple(options.strategies), tuple(options.starters))
        known = {} if options.again else {key(row): row for row in read_rows(ROWS)}
        failed = measure(missing(asked, tuple(options.seeds), known), ROWS, options.jobs)
    from report import write_report

    if options.report:
        drop_old(ROWS)
    write_report(read_rows(ROWS), RESULTS)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
