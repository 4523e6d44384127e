"""Make ``src/zoo_timm/catalogue.json`` from the installed timm; not part of the wheel.

::

    python generate_catalogue.py --scratch DIR --results DIR     measure (resumable in DIR) and write
    python generate_catalogue.py --check                         does the catalogue fit the installed timm? seconds
    python generate_catalogue.py --check --full --scratch DIR    measure everything again and compare

``--results`` is the folder ``results/`` of the timm repository; without it the facts of the old catalogue are kept.
Measuring 1,400 architectures takes about 40 minutes on one core and needs no weights and no network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CATALOGUE = HERE / "src" / "zoo_timm" / "catalogue.json"


def main() -> int:
    """Returns the exit code: 1 where the catalogue does not fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    parser.add_argument("--full", action="store_true", help="with --check: measure again")
    parser.add_argument("--scratch", type=Path, help="folder for measurements, which are resumed from there")
    parser.add_argument("--results", type=Path, help="timm's results/ folder with the CSV files")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args.worker, json.loads(sys.stdin.read()))
    from zoo_timm import generating

    old = json.loads(CATALOGUE.read_text()) if CATALOGUE.exists() else None
    if args.check and not args.full:
        return tell(generating.drift(old))
    if args.scratch is None:
        parser.error("--scratch is needed to measure")
    measured = measure_all(args.scratch, generating.probes())
    measured = measure_all(args.scratch, [*measured, *generating.numeric_probes(measured)])
    new = generating.assemble(measured, args.results or old)
    if args.check:
        return tell(generating.differences(old, new))
    CATALOGUE.write_text(generating.to_text(new))
    print(f"{CATALOGUE.name}: {len(new['tag'])} rows, {CATALOGUE.stat().st_size:,} bytes")
    return 0


def tell(problems: list[str]) -> int:
    """Print the differences."""
    for problem in problems[:40]:
        print(problem)
    print(f"{len(problems)} differences" if problems else "the catalogue fits the installed timm")
    return 1 if problems else 0


def measure_all(scratch: Path, wanted: list[str]) -> dict[str, dict]:
    """Measure each name in worker processes that may die; the log in ``scratch`` is resumed."""
    scratch.mkdir(parents=True, exist_ok=True)
    log = scratch / "measured.jsonl"
    while True:
        done = read_log(log)
        left = [name for name in wanted if name not in done]
        if not left:
            return {name: done[name] for name in wanted}
        command = [sys.executable, __file__, "--worker", str(log)]
        offline = {**os.environ, "HF_HUB_OFFLINE": "1"}  # two hybrids ask the hub for the weights of their stem
        ended = subprocess.run(command, input=json.dumps(left), text=True, check=False, env=offline)
        after = read_log(log, started=True)
        crashed = [name for name, row in after.items() if row is None]
        with log.open("a") as file:
            for name in crashed:
                file.write(json.dumps({"name": name, "failed": f"the process ended with {ended.returncode}"}) + "\n")
        if not crashed and len(read_log(log)) == len(done):
            raise SystemExit(f"the worker makes no progress (exit code {ended.returncode})")


def read_log(log: Path, *, started: bool = False) -> dict[str, dict]:
    """Name -> what was measured; with ``started`` names without a result too, as None."""
    rows: dict[str, dict] = {}
    for line in log.read_text().splitlines() if log.exists() else ():
        row = json.loads(line)
        if "started" in row:
            if started:
                rows.setdefault(row["started"], None)
        else:
            rows[row["name"]] = row
    return rows


def work(log: Path, wanted: list[str]) -> int:
    """Measure one after the other and append to ``log``; a new process every 400, torch keeps what it compiled."""
    import dataclasses
    import gc

    import torch
    from zoo_timm.generating import NUMBERS
    from zoo_timm.measuring import measure, measure_numbers

    torch.set_num_threads(1)
    gc.freeze()  # what was imported needs no looking through
    with log.open("a") as file:
        for name in wanted[:400]:
            print(json.dumps({"started": name}), file=file, flush=True)
            try:
                base = name.removesuffix(NUMBERS)
                row = dataclasses.asdict(measure(name) if base == name else measure_numbers(base))
            except Exception as error:  # one bad architecture must not end the run
                row = {"failed": f"{type(error).__name__}: {error}"[:300]}
            print(json.dumps({"name": name, **row}), file=file, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
