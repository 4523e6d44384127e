"""Fine-tuning from a folder of JPEGs, end to end, beside the peers and beside the limit of the machine.

``python benchmarks/finetune/run.py [--timm-train PATH] [--peers-python PATH]`` draws the pictures, then runs every
contestant in a process of its own, one after the other, so many rounds; writes ``results/finetune.{json,md}``. The
figure is images a second of the training part, the median over rounds of a run's best epoch but the first (in the
first, workers start and caches fill); of such epochs peers have one by default and ours five, as it chooses its compute
path in runs above a minute only. Peers lie in an environment of their own (``requirements-peers.txt``); timm's
``train.py`` is not in its wheel, so it is named by its path. Who cannot be imported is left out and said.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from contestants import CONTESTANTS
from machine import describe_machine, describe_versions
from pictures import draw_folder

RESULTS = Path(__file__).resolve().parents[1] / "results"
MODELS = {"mobilenetv3_small_100": 1000, "resnet18": 320}
"""Architecture -> training images."""
OURS, LIMIT, HIGHER = "zoo", "limit", "limit, pages kept"
TARGETS = {"mobilenetv3_small_100": 1.5, "resnet18": 1.8}
"""Times the best peer in its default settings."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--only", nargs="+", choices=tuple(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--images", type=int, default=None, help="training images; by default 1,000 and 320")
    parser.add_argument("--epochs", type=int, default=2, help="of the peers")
    parser.add_argument("--zoo-epochs", type=int, default=6, help="ours: it chooses a path in runs above a minute only")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2, help="of the peers; zoo chooses its own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=12, help="of the limit, each path")
    parser.add_argument("--timm-train", default=None, metavar="PATH", help="timm's train.py")
    parser.add_argument("--peers-python", default=sys.executable, metavar="PATH", help="interpreter that has the peers")
    parser.add_argument("--name", default="finetune", help="of the result files")
    return parser.parse_args()


def turn(name: str, asked: dict[str, Any], python: str) -> dict[str, Any] | None:
    """One contestant in its own process; None and a line where it cannot run."""
    with tempfile.TemporaryDirectory() as scratch:
        given = json.dumps({**asked, "scratch": scratch, "timm_options": []})
        command = [python, str(Path(__file__).with_name("contestants.py")), name, given]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name} left out: {(done.stderr.strip().splitlines() or ['no word'])[-1]}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peer_version(python: str, name: str) -> str:
    """The version of a distribution in the peers' environment."""
    asked = f"from importlib.metadata import version; print(version({name!r}))"
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "not installed"


def rate(found: dict[str, Any]) -> float:
    """Images a second of the best epoch but the first."""
    seconds = found["seconds"][1:] or found["seconds"]
    return float(found["images"] / min(seconds))


def measure(asked: argparse.Namespace, model: str, data: Path) -> dict[str, list[float]]:
    """Contestant -> rate of each round."""
    names = [name for name in asked.only if asked.timm_train or not name.startswith("timm")]
    kept = ("epochs", "batch", "workers", "threads", "device", "steps", "timm_train")
    shared = {"data": str(data), "model": model, **{name: getattr(asked, name) for name in kept}}
    more = {OURS: {"epochs": asked.zoo_epochs}}
    rates: dict[str, list[float]] = {}
    for _ in range(asked.rounds):
        for name in list(names):
            found = turn(
                name,
                shared | more.get(name, {}),
                sys.executable if name in (OURS, LIMIT, HIGHER) else asked.peers_python,
            )
            if found is None:
                names.remove(name)
                continue
            rates.setdefault(name, []).append(rate(found))
            print(model, name, f"{rates[name][-1]:.1f} images/s", flush=True)
    return rates


def report(value: dict[str, Any]) -> str:
    """The Markdown page."""
    lines = ["# Fine-tuning end to end", "", f"Command: `{value['command']}`", "",
             f"Machine: {value['machine']}; {value['versions']}. {value['about']}", ""]  # fmt: skip
    for model, rates in value["models"].items():
        medians = {name: statistics.median(found) for name, found in rates.items()}
        peers = {n: r for n, r in medians.items() if n not in (OURS, LIMIT, HIGHER, "timm --channels-last")}
        lines += [f"## {model}", "", "| | images/s | of the limit | zoo is |", "|---|---|---|---|"]
        for name, median in sorted(medians.items(), key=lambda row: row[1]):
            share = f"{median / medians[LIMIT]:.2f}" if LIMIT in medians else ""
            times = f"{medians[OURS] / median:.2f}x" if OURS in medians and name != OURS else ""
            lines.append(
                f"| {name} | {median:.1f} ({', '.join(f'{r:.1f}' for r in rates[name])}) | {share} | {times} |"
            )
        if peers and OURS in medians:
            best = max(peers, key=lambda n: peers[n])
            wanted = f" (wanted: {TARGETS[model]}x)" if model in TARGETS else ""
            lines += [
                "",
                f"Best peer in its default settings: {best}; zoo is {medians[OURS] / peers[best]:.2f}x{wanted}.",
            ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    asked = parse()
    scripts = " --timm-train train.py" if asked.timm_train else ""
    value: dict[str, Any] = {
        "command": f"python benchmarks/finetune/run.py{scripts}",
        "machine": describe_machine(),
        "versions": f"{describe_versions('torch', 'timm', 'torchvision', 'transformers', 'transfer-zoo')}, "
        f"fastai {peer_version(asked.peers_python, 'fastai')}",
        "about": f"JPEGs of 500 x 375, 224 px, batch {asked.batch}, {asked.threads} threads, "
        f"random weights, {asked.device}; "
        f"training part alone, a run's best epoch but the first ({asked.epochs - 1} of peers, "
        f"{asked.zoo_epochs - 1} of ours), medians of {asked.rounds} rounds, every run in a process of its own.",
        "models": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        for model in asked.models:
            data = draw_folder(Path(place) / model, asked.images or MODELS.get(model, 320), 40)
            value["models"][model] = measure(asked, model, data)
            RESULTS.joinpath(f"{asked.name}.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
            RESULTS.joinpath(f"{asked.name}.md").write_text(report(value), encoding="utf-8")


if __name__ == "__main__":
    main()
