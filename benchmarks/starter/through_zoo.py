"""The same comparison through the application: ``zoo.finetune`` on ``digits:`` with few labels, its own rates.

``python benchmarks/starter/through_zoo.py`` writes ``benchmarks/results/starter-zoo.md`` and ``.json``. Five paired
draws of 5 and 10 labels a class (``digits:?labels=K&seed=S``); the test is the application's fixed 539 digits. The last
weights are evaluated, not the best on ``val``, which holds more labels than ``train``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import zoo

RESULTS = Path(__file__).resolve().parents[1] / "results"
ROWS = {
    "frozen at random initialisation, `linear:300s`": ("linear:300s", False),
    "starter, `linear:300s`": ("linear:300s", True),
    "from scratch, `full:1200s`": ("full:1200s", False),
    "starter, `linear:100s,full:200s`": ("linear:100s,full:200s", True),
}
SETTINGS = ("train.keep=last", "train.evaluate_every=100000", "train.threads=1")

Scores = dict[str, dict[str, list[float]]]


def accuracy(backbone: str, strategy: str, *, pretrained: bool, labels: int, seed: int) -> float:
    """Test accuracy of one run in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        result = zoo.finetune(
            f"digits:?labels={labels}&seed={seed}",
            backbone=backbone,
            strategy=strategy,
            pretrained=pretrained,
            seed=seed,
            out=Path(folder) / "run",
            augment="none",
            batch_size=32,
            settings=SETTINGS,
        )
    return round(result.metrics["accuracy"], 4)


def write(backbone: str, scores: Scores, machine: str) -> None:
    """Both files, with the wins of each starter row over the row before it."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "starter-zoo.json").write_text(json.dumps({"backbone": backbone, "results": scores}, indent=1) + "\n")
    lines = [f"# `{backbone}` on few digits, through the application", ""]
    lines += [
        "Command: `python benchmarks/starter/through_zoo.py`",
        "",
        f"Machine: {machine}; torch {version('torch')}.",
        "",
    ]
    lines += [
        "Test: the application's 539 digits. Rates are the strategies' own defaults, no augmentation, batches of 32."
    ]
    lines += [
        "They suit pretrained features; `starter.md` gives each row, the random one too, the rate it likes best.",
        "",
    ]
    lines += ["| row |" + "".join(f" {k} labels: mean | draws |" for k in scores), "|---|" + "---|---|" * len(scores)]
    for row in ROWS:
        cells = [
            f"**{statistics.mean(s[row]):.3f}** | " + " ".join(f"{a:.3f}" for a in s[row]) for s in scores.values()
        ]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    names = list(ROWS)
    for before, after in (names[:2], names[2:]):
        won = [
            f"{sum(a > b for a, b in zip(s[after], s[before]))} of 5 draws with {k} labels" for k, s in scores.items()
        ]
        lines += ["", f"- {after}, against {before}: higher in " + ", ".join(won)]
    (RESULTS / "starter-zoo.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="starter/cnn")
    parser.add_argument("--labels", nargs="+", type=int, default=[5, 10])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--machine", default=f"{os.cpu_count()} cores, {platform.machine()}", help="in words")
    options = parser.parse_args()
    scores: Scores = {}
    for labels in options.labels:
        rows = scores.setdefault(str(labels), {})
        for row, (strategy, pretrained) in ROWS.items():
            rows[row] = [
                accuracy(options.backbone, strategy, pretrained=pretrained, labels=labels, seed=seed)
                for seed in range(options.draws)
            ]
            print(labels, row, rows[row], file=sys.stderr, flush=True)
    write(options.backbone, scores, options.machine)


if __name__ == "__main__":
    main()
