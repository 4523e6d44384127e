"""What each compute path is worth, which one ``zoo`` takes by measuring, and what bfloat16 does to the final metric.

    python benchmarks/compute.py [--device cpu] [--rounds 7] [--models resnet18 ...] [--seeds 0 1 2] [--no-digits]

Rates: the loop's own step (loss, penalties, backward, clipping, AdamW) on one batch of real shape, every path in turns
in one process, medians over the rounds. The chooser is then asked as before a run of ``--minutes``: it may take 5 % of
that. Digits: runs of both starter backbones by ``zoo.finetune``, in float32 and in bf16, seed by seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine, describe_versions
from zoo_registry import Registry

import zoo
from zoo.assembly.assemble import assemble_model
from zoo.compute.candidates import candidates
from zoo.compute.choose import BACKWARD, Choice, choose_path, step_samples
from zoo.compute.measure import Bench, pass_seconds
from zoo.compute.path import ComputePath
from zoo.data import open_data
from zoo.determinism import reproducible
from zoo.devices import resolve_device
from zoo.finetuning import build_phases
from zoo.planning import Request, make_plan
from zoo.training.rehearsal import Rehearsed
from zoo.training.run import TrainingRun

RESULTS = Path(__file__).parent / "results"
MODELS = ("resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224")
STARTERS = ("starter/cnn", "starter/vit")
PLAIN = ComputePath()
"""What everybody else takes: float32, contiguous, AdamW as separate operations."""


class Noise:
    """A map-style dataset of so many images of noise, of ten classes."""

    classes = tuple(map(str, range(10)))

    def __init__(self, count: int, pixels: int) -> None:
        self.targets = [index % 10 for index in range(count)]
        self.images = np.random.default_rng(0).integers(0, 256, (count, pixels, pixels, 3)).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], self.targets[index]


def make_run(name: str, batch: int, pixels: int, device: torch.device, registry: Registry) -> tuple[TrainingRun, Any]:
    """A run of full fine-tuning on noise, with random weights, and what builds its phases anew."""
    source = {"train": Noise(2 * batch, pixels), "val": Noise(20, pixels)}
    plan = make_plan(
        Request(
            data=source, backbone=f"timm/{name}", head="basics/linear", strategy="full:1000", pretrained=False,
            image_size=pixels, settings=(f"train.batch_size={batch}", "train.augment=light", "train.compile=false"),
        ),
        registry,
    )  # fmt: skip
    data = open_data(source)
    made = assemble_model(
        registry, backbone=f"timm/{name}", head="basics/linear", columns=data.columns, pretrained=False,
        image_size=pixels, device=device,
    )  # fmt: skip
    recipe = plan.recipe
    run = TrainingRun(
        model=made.model, phases=build_phases(recipe, registry), data=data, input=made.input, options=recipe.train,
        seed=0, device=device,
    )  # fmt: skip
    return run, lambda: build_phases(recipe, registry)


def measure(name: str, asked: argparse.Namespace, device: torch.device, registry: Registry) -> dict[str, Any]:
    """Rates of all paths of a model, and what the chooser took."""
    run, build = make_run(name, asked.batch, asked.pixels, device, registry)
    choice = ask(run, build, asked.minutes)
    found = candidates(run.options, run.model.backbone, device)
    paths = [*(dataclasses.replace(path, fused=False) for path in found), *found]
    bench = Bench(run, build(), 0, asked.batch)
    times: dict[ComputePath, list[float]] = {path: [] for path in paths}
    for number in range(1 + asked.rounds):
        for path in paths:
            bench.step(path)  # the same path once more, so that the layout's change is not timed
            spent = bench.step(path)
            if number:
                times[path].append(spent)
    rates = {path: bench.samples / statistics.median(spent) for path, spent in times.items()}
    best, plain, taken = max(rates.values()), rates[PLAIN], rates[choice.path]
    return {
        "rates": {path.label(): rate for path, rate in rates.items()},
        "taken": choice.path.label(),
        "why": choice.why,
        "choosing_seconds": choice.seconds,
        "against_plain": taken / plain,
        "against_best": taken / best,
    }


def ask(run: TrainingRun, build: Any, minutes: float) -> Choice:
    """The choice for a run of so many minutes, as estimated."""
    steps = round(60 * minutes / (BACKWARD * pass_seconds(run) * step_samples(run)))
    return choose_path(run, build, [Rehearsed(max(1, steps), False)])


def digits(asked: argparse.Namespace) -> dict[str, Any]:
    """Starter -> precision -> the final metric of each seed."""
    found: dict[str, Any] = {}
    for starter in STARTERS:
        found[starter] = {precision: [] for precision in ("float32", "bf16")}
        for seed in asked.seeds:
            threads = f"train.threads={asked.threads}"
            for precision, metrics in found[starter].items():
                with tempfile.TemporaryDirectory() as folder:
                    done = zoo.finetune(
                        asked.data, backbone=starter, strategy=asked.strategy, seed=seed, out=Path(folder) / "run",
                        device=asked.device, settings=(f"train.precision={precision}", threads),
                    )  # fmt: skip
                metrics.append(done.metrics["accuracy"])
        found[starter] |= spread(found[starter])
    return found


def spread(metrics: dict[str, list[float]]) -> dict[str, Any]:
    """The difference of the means, beside the largest difference of two seeds in float32."""
    plain, short = metrics["float32"], metrics["bf16"]
    difference = statistics.mean(short) - statistics.mean(plain)
    width = max(plain) - min(plain)
    return {"difference": difference, "seed_spread": width, "within": abs(difference) <= width}


def report(value: dict[str, Any], command: str) -> str:
    """The result as a page."""
    lines = [
        "# Compute paths",
        "",
        f"Command: `{command}`.",
        f"Machine: {value['machine']}. {value['versions']}.",
        "",
        f"Steps of batch {value['batch']} at {value['pixels']} px on {value['device']}, random weights,",
        f"paths in turns, medians of {value['rounds']} rounds.",
        "",
    ]
    for name, found in value["models"].items():
        lines += [*rates_words(name, found, value["minutes"]), ""]
    if value["digits"]:
        lines += digits_words(value)
    return "\n".join(lines)


def rates_words(name: str, found: dict[str, Any], minutes: float) -> list[str]:
    """A model's table."""
    plain = found["rates"][PLAIN.label()]
    return [
        f"**{name}**: takes {found['taken']}, {found['against_plain']:.2f}x plain float32 and",
        f"{found['against_best']:.2f} of the best; chosen in {found['choosing_seconds']:.1f} s for {minutes:g} min.",
        "",
        "| path | images/s | against plain float32 |",
        "|---|---|---|",
        *(f"| {path} | {rate:.1f} | {rate / plain:.2f} |" for path, rate in found["rates"].items()),
    ]


def digits_words(value: dict[str, Any]) -> list[str]:
    """The table of the digits runs."""
    lines = [
        f"`{value['data']}`, `{value['strategy']}`, accuracy with seeds {', '.join(map(str, value['seeds']))}:",
        "",
        "| backbone | float32 | bf16 | difference of means | seed spread | within |",
        "|---|---|---|---|---|---|",
    ]
    for starter, found in value["digits"].items():
        one, two = (" ".join(f"{m:.4f}" for m in found[p]) for p in ("float32", "bf16"))
        said = f"{found['difference']:+.4f} | {found['seed_spread']:.4f} | {'yes' if found['within'] else 'no'}"
        lines.append(f"| {starter} | {one} | {two} | {said} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--models", nargs="*", default=MODELS, help="of timm")
    parser.add_argument("--batch", type=int, default=32, help="images a step")
    parser.add_argument("--pixels", type=int, default=224, help="height and width")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each path")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the run that the chooser is asked about")
    parser.add_argument("--threads", type=int, default=0, help="torch CPU threads, 0 for torch's choice")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the digits runs")
    parser.add_argument("--data", default="digits:", help="of the digits runs; digits:?labels=5 is quicker")
    parser.add_argument("--strategy", default="linear,full:10", help="of the digits runs")
    parser.add_argument("--no-digits", action="store_true", help="rates alone")
    parser.add_argument("--name", default=None, help="of the result files; compute-DEVICE by default")
    asked = parser.parse_args()
    device, registry = resolve_device(asked.device), Registry()
    with reproducible(True, asked.threads):
        models = {name: measure(name, asked, device, registry) for name in asked.models}
    value = {
        "machine": describe_machine(),
        "versions": describe_versions("transfer-zoo", "torch", "timm"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads",
        **{
            name: getattr(asked, name) for name in ("batch", "pixels", "rounds", "minutes", "seeds", "strategy", "data")
        },
        "models": models,
        "digits": {} if asked.no_digits else digits(asked),
    }
    name = asked.name or f"compute-{device.type}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    text = report(value, f"python benchmarks/compute.py --device {asked.device} --rounds {asked.rounds}")
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
