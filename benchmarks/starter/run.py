"""What the starter backbones are worth: handwritten digits with few labels, against the same networks untrained.

``python benchmarks/starter/run.py`` writes ``benchmarks/results/starter.md`` and ``starter.json`` (about an hour on 2
cores; ``--networks``, ``--labels`` and ``--rows`` measure a part and keep the rest). scikit-learn's digits, 5 and 10
labels a class, 5 paired draws: within a draw every row sees the same images, batch order and, where it has one, the
same random initialisation. No augmentation in any row. Plain torch and timm, not the application, so that the rows
differ in nothing but the weights they start from.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from digits import Digits
from rows import ROWS, Rates, title

COMMAND = "python benchmarks/starter/run.py"
RESULTS = Path(__file__).resolve().parents[1] / "results"
LABELS = (5, 10)
DRAWS = (0, 1, 2, 3, 4)
VERSUS = {"linear": "random_linear", "logistic": "random_logistic", "linear_full": "scratch4"}
RATES: dict[str, Rates] = {
    "cnn": {"random_linear": 0.3, "linear": 0.003, "scratch": 0.003, "scratch4": 0.003, "linear_full": 0.003},
    "vit": {"random_linear": 0.3, "linear": 0.01, "scratch": 0.003, "scratch4": 0.003, "linear_full": 0.0003},
}

Scores = dict[str, list[float]]


def measure(digits: Digits, network: str, k: int, rows: list[str]) -> Scores:
    """Row -> accuracy of each draw."""
    scores: Scores = {}
    for row in rows:
        began, score = time.monotonic(), ROWS[row][1]
        scores[row] = [round(score(digits.draw(k, seed), network, seed, RATES[network]), 4) for seed in DRAWS]
        print(network, k, row, scores[row], f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return scores


def wins(scores: Scores, row: str, other: str) -> int:
    """In how many draws ``row`` is higher than ``other``."""
    return sum(a > b for a, b in zip(scores[row], scores[other]))


def machine(words: str) -> dict[str, Any]:
    """What ran it: machine in words, threads, versions."""
    versions = {name: version(name) for name in ("torch", "timm", "scikit-learn", "numpy", "zoo-starter")}
    return {"machine": words, "threads": torch.get_num_threads(), "python": platform.python_version(), **versions}


def table(network: str, results: dict[str, Scores]) -> str:
    """A Markdown table of the rows measured: mean and each draw, then who won how often."""
    head = [f"### `starter/{network}`", "", "| row | rate |" + "".join(f" {k} labels: mean | draws |" for k in results)]
    head.append("|---|---|" + "---|---|" * len(results))
    lines, known = [], [row for row in ROWS if all(row in scores for scores in results.values())]
    for row in known:
        cells = [title(row, network), f"{RATES[network][row]:g}" if row in RATES[network] else ""]
        for scores in results.values():
            cells += [f"**{statistics.mean(scores[row]):.3f}**", " ".join(f"{s:.3f}" for s in scores[row])]
        lines.append("| " + " | ".join(cells) + " |")
    verdicts = [
        f"- {title(row, network)}, against {title(other, network)}: "
        + ", ".join(
            f"higher in {wins(s, row, other)} of {len(DRAWS)} draws with {k} labels" for k, s in results.items()
        )
        for row, other in VERSUS.items()
        if row in known and other in known
    ]
    return "\n".join([*head, *lines, "", *verdicts, ""])


def write(report: dict[str, Any]) -> None:
    """Both files of the report."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "starter.json").write_text(json.dumps(report, indent=1) + "\n")
    about = ", ".join(f"{name} {value}" for name, value in report["environment"].items() if name not in ("machine",))
    text = ["# The starter backbones on handwritten digits with few labels", ""]
    text += [f"Command: `{report['command']}`", "", f"Machine: {report['environment']['machine']}; {about}.", ""]
    text += [
        "Accuracy on the images that were not drawn (1,797 less 10 times the labels). Rows of a draw share images,"
    ]
    text += [
        "batch order and initialisation. Rates of AdamW were picked for each row on another draw (`pick_rates.py`);"
    ]
    text += ["both rows of the transformer from scratch have the one picked at 300 steps.", ""]
    text += [table(network, results) for network, results in report["results"].items()]
    (RESULTS / "starter.md").write_text("\n".join(text))


def earlier(path: Path) -> dict[str, dict[str, Scores]]:
    """The results of an earlier run, of which this one measures some rows anew."""
    return json.loads(path.read_text())["results"] if path.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--machine", default=f"{os.cpu_count()} cores, {platform.machine()}", help="in words")
    parser.add_argument("--networks", nargs="+", choices=tuple(RATES), default=list(RATES))
    parser.add_argument("--labels", nargs="+", type=int, choices=LABELS, default=list(LABELS), help="labels a class")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=list(ROWS), help="measure these, keep others")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    digits = Digits()
    measured = {n: {str(k): measure(digits, n, k, options.rows) for k in options.labels} for n in options.networks}
    results = earlier(RESULTS / "starter.json")  # read late: another process may have measured other rows meanwhile
    for network, scores in measured.items():
        for k in scores:
            results.setdefault(network, {})[k] = results.get(network, {}).get(k, {}) | scores[k]
    write({"command": COMMAND, "environment": machine(options.machine), "rates": RATES, "results": results})


if __name__ == "__main__":
    main()
