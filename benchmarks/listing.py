"""How long ``zoo list backbones`` takes from cold, beside ``timm.list_models(pretrained=True)`` and ``hf version``.

Each command runs in a process of its own, the candidates interleaved; medians over the rounds, and their ratios. The
files are in the disk cache: what is measured is the work, not the disk.

    python benchmarks/listing.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import describe_machine, describe_versions

RESULTS = Path(__file__).parent / "results"
BOUNDS = {"timm.list_models(pretrained=True)": 0.04, "hf version": 0.6}


def candidates() -> dict[str, list[str]]:
    """Name -> command, from this Python's own environment."""
    folder = Path(sys.executable).parent
    programs = {name: shutil.which(name, path=str(folder)) or name for name in ("zoo", "hf")}
    return {
        "zoo list backbones": [programs["zoo"], "list", "backbones"],
        "zoo --help": [programs["zoo"], "--help"],
        "hf version": [programs["hf"], "version"],
        "timm.list_models(pretrained=True)": [
            sys.executable,
            "-c",
            "import timm; print('\\n'.join(timm.list_models(pretrained=True)))",
        ],
    }


def measure(command: list[str]) -> tuple[float, int]:
    """Seconds of one run, and the lines it printed."""
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "NO_COLOR": "1"})
    return time.perf_counter() - begun, len(done.stdout.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds, the first of which is thrown away")
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in candidates()}
    lines = {}
    for number in range(rounds):
        for name, command in candidates().items():
            seconds, lines[name] = measure(command)
            if number:
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {name: medians["zoo list backbones"] / medians[name] for name in BOUNDS}
    value = {
        "machine": describe_machine(),
        "versions": describe_versions("transfer-zoo", "timm", "torch", "huggingface-hub"),
        "seconds": medians,
        "lines": lines,
        "ratios": ratios,
        "bounds": BOUNDS,
        "peak_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "listing.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "listing.md").write_text(report(value, rounds), encoding="utf-8")
    print(report(value, rounds))


def report(value: dict, rounds: int) -> str:
    """The result as a page."""
    rows = [f"| `{name}` | {1000 * s:.0f} | {value['lines'][name]} |" for name, s in value["seconds"].items()]
    ratios = [f"| `{name}` | {value['ratios'][name]:.3f} | {bound} |" for name, bound in value["bounds"].items()]
    return "\n".join(
        [
            "# Listing from cold",
            "",
            f"Command: `python benchmarks/listing.py --rounds {rounds}`.",
            f"Machine: {value['machine']}. {value['versions']}.",
            f"Medians of {rounds - 1} interleaved rounds, whole processes.",
            "",
            "| command | ms | lines |",
            "|---|---|---|",
            *rows,
            "",
            "| `zoo list backbones` as a share of | ratio | wanted at most |",
            "|---|---|---|",
            *ratios,
            "",
        ]
    )


if __name__ == "__main__":
    main()
