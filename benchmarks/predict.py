"""Images a second of predicting a folder of JPEGs, beside the rate of the bare model and transformers' pipeline.

A folder of photo-like JPEGs (500 x 375, see ``input.py``) and a bundle with random weights for each model. ``pure`` is
the same model's forward under ``inference_mode`` on preloaded, normalised batches: same batch, threads and float32.
``zoo predict`` and ``zoo evaluate`` read, decode and transform exactly, workers chosen by themselves; ``input`` is the
same reading without the model in one process. All in one process, taking turns; medians. Where the device is a CPU,
cores that decode do not compute: ``bound`` is the rate if nothing were lost beside that, 1 / (1 / pure + 1 / (input x
cores)).

    python benchmarks/predict.py [--models mobilenetv3_small_100.lamb_in1k resnet18.a1_in1k] [--images 2000]
                                 [--rounds 3] [--batch 64] [--device cpu|cuda]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine, describe_versions
from zoo_registry import Column, Registry

from zoo.assembly.assemble import assemble_model
from zoo.bundle.read import LoadedModel, load_bundle
from zoo.bundle.write import Findings, write_bundle
from zoo.data import open_files
from zoo.data.supply import core_count
from zoo.evaluation.running import iterate_batches
from zoo.models import evaluate_model
from zoo.prediction import predict_files
from zoo.recipe import Component, Recipe, parse_strategy
from zoo.training.pipeline import Pipeline

RESULTS = Path(__file__).parent / "results"
MODELS = ("mobilenetv3_small_100.lamb_in1k", "resnet18.a1_in1k")
WANTED = 0.95
DRAW = """
import sys
from pathlib import Path
from input import draw_folder
draw_folder(Path(sys.argv[1]), 500, 375, int(sys.argv[2]))
"""


def draw_photos(place: Path, count: int) -> Path:
    """A folder of two class folders."""
    command = [sys.executable, "-c", DRAW, str(place), str(count)]
    subprocess.run(command, cwd=Path(__file__).parent, check=True)  # a process of its own: input.py sets threads
    return place / "500x375"


def write_model(name: str, folder: Path) -> Path:
    """A bundle of a timm model with random weights and two classes."""
    columns = (Column(name="label", classes=("a", "b")),)
    made = assemble_model(Registry(), backbone=f"timm/{name}", head="linear", columns=columns, pretrained=False)
    parts = (Component(name=made.backbone.name), Component(name=made.head.name))
    recipe = Recipe(backbone=parts[0], head=parts[1], phases=parse_strategy("basics/linear:1"), pretrained=False)
    write_bundle(folder, made, recipe, Findings(), Registry())
    return folder


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def candidates(
    loaded: LoadedModel, photos: Path, bundle: Path, args: argparse.Namespace
) -> dict[str, Callable[[], int]]:
    """Name -> what to time; returns the number of images."""
    device = next(loaded.model.parameters()).device
    pipeline = Pipeline(loaded.model.backbone, loaded.input, device)
    files = open_files(photos)
    few = files.subset(range(min(4 * args.batch, len(files))))
    batches = [pipeline.feed(b.views["eval"]) for b in iterate_batches(few, pipeline, batch_size=args.batch)]

    def pure() -> int:
        count = 0
        with torch.inference_mode():
            for number in range(max(1, min(len(files), args.pure) // args.batch)):
                loaded.model.predict(batches[number % len(batches)])
                count += len(batches[number % len(batches)])
        synchronise(device)
        return count

    def read() -> int:
        part = files.subset(range(min(len(files), 8 * args.batch)))
        return sum(len(batch) for batch in iterate_batches(part, pipeline, batch_size=args.batch))

    def predict() -> int:
        return sum(1 for _ in predict_files(loaded, [photos], batch_size=args.batch, workers=args.workers))

    def evaluate() -> int:
        return evaluate_model(loaded, photos, split="all", batch_size=args.batch, workers=args.workers).samples

    found = {"pure": pure, "input": read, "zoo predict": predict, "zoo evaluate": evaluate}
    if find_spec("transformers") is not None and not args.no_peer:
        from transformers import pipeline as make_pipeline

        peer = make_pipeline("image-classification", model=str(bundle), device=str(device), batch_size=args.batch)
        names = list(files.ids)[: args.peer_images]
        found["transformers pipeline"] = lambda: len(peer(names))
    return found


def measure(jobs: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Name -> images a second; a first round is thrown away where there are more."""
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + (rounds > 1)):
        for name, job in jobs.items():
            begun = time.perf_counter()
            count = job()
            rate = count / (time.perf_counter() - begun)
            print(f"  {name:22} {rate:8.1f} images/s", file=sys.stderr)
            if number or rounds == 1:
                rates[name].append(rate)
    return {name: statistics.median(values) for name, values in rates.items()}


def report(value: dict[str, Any]) -> str:
    """The result as a page."""
    lines = ["# Predicting a folder", "", f"Command: `{value['command']}`."]
    lines += [f"Machine: {value['machine']}, {value['device']}, {value['threads']} threads. {value['versions']}."]
    lines += [
        f"{value['images']} JPEGs of 500 x 375, batches of {value['batch']}, float32; medians, images a second.",
        "",
    ]
    lines += ["| model | " + " | ".join(next(iter(value["rates"].values()))) + " |"]
    lines += ["|---" * (1 + len(next(iter(value["rates"].values())))) + "|"]
    for model, rates in value["rates"].items():
        lines.append(f"| {model} | " + " | ".join(f"{rate:.1f}" for rate in rates.values()) + " |")
    lines += [
        "",
        f"| model | predict / pure (wanted {WANTED}) | evaluate / pure | predict / bound | predict / pipeline |",
    ]
    lines.append("|---|---|---|---|---|")
    for model, r in value["ratios"].items():
        cells = (r["pure"], r["evaluate"], r["bound"], r["pipeline"])
        lines.append(f"| {model} | " + " | ".join("-" if c is None else f"{c:.2f}" for c in cells) + " |")
    return "\n".join([*lines, ""])


def ratios(rates: dict[str, float]) -> dict[str, float | None]:
    """Of ``zoo predict`` (and ``zoo evaluate``) to the others."""
    peer = rates.get("transformers pipeline")
    return {
        "pure": rates["zoo predict"] / rates["pure"],
        "evaluate": rates["zoo evaluate"] / rates["pure"],
        "bound": rates["zoo predict"] / rates["bound"],
        "pipeline": rates["zoo predict"] / peer if peer else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="timm models")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--pure", type=int, default=1000, help="images of the bare rate, at most")
    parser.add_argument("--peer-images", type=int, default=500, help="images that the pipeline predicts, at most")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, help="of the zoo; it decides by itself by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-peer", action="store_true", help="without transformers")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    rates: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as place:
        photos = draw_photos(Path(place), args.images)
        for name in args.models:
            print(name, file=sys.stderr)
            bundle = write_model(name, Path(place) / name)
            loaded = load_bundle(bundle, Registry(), device=args.device)
            found = measure(candidates(loaded, photos, bundle, args), args.rounds)
            shared = core_count() if args.device == "cpu" else 0
            found["bound"] = 1 / (1 / found["pure"] + 1 / (found["input"] * shared)) if shared else found["pure"]
            rates[name] = found
    value = {
        "command": f"python benchmarks/predict.py --images {args.images} --rounds {args.rounds} --device {args.device}",
        "machine": describe_machine(),
        "versions": describe_versions("transfer-zoo", "torch", "timm", "transformers"),
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU",
        "threads": torch.get_num_threads(),
        "images": args.images,
        "batch": args.batch,
        "rates": rates,
        "ratios": {name: ratios(found) for name, found in rates.items()},
    }
    args.results.mkdir(exist_ok=True)
    suffix = "" if args.device == "cpu" else "-cuda"
    (args.results / f"predict{suffix}.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    (args.results / f"predict{suffix}.md").write_text(report(value), encoding="utf-8")
    print(report(value))


if __name__ == "__main__":
    main()
