"""A linear probe: the zoo's kept features beside a loop that reruns the frozen backbone each epoch.

The loop is that of torchvision's transfer-learning tutorial for a fixed feature extractor: ``ImageFolder``, Pillow, the
evaluation transform for both splits (so no augmentation), a ``DataLoader`` with worker processes, ten epochs of train
and val. Two things are kinder to it than the tutorial is: BatchNorm rests, and the head learns by the zoo's own
optimiser and schedule, so that both must reach the same accuracy. Weights are random (the same for both), so features
are poor where the backbone is not a starter.

A folder of photo-like JPEGs of ten classes is drawn, the same every time. In one process, with as many threads, take
turns: the zoo on an empty feature cache, again with what that has kept, with four augmented views, the loop; then heads
with closed forms on what is kept. Timed is training with its evaluations (``training``), and for the zoo the whole call
too, from opening the folder to the written bundle (``whole``).

    python benchmarks/probe.py [--models mobilenetv3_small_100:1000 resnet18:320] [--size 500x375] [--repeats 1]
    python benchmarks/probe.py --digits      (scikit-learn's digits and starter/cnn: what accuracy comes of it)

About five minutes for both models on two cores; ``--device cuda`` for a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="probe-")  # before the zoo: a feature cache of our own

import numpy as np
import torch
from machine import describe_machine, describe_versions
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.datasets import ImageFolder

import zoo
from zoo.data.digits import read_digits
from zoo.features.store import features_folder
from zoo.training.progress import Reporter

RESULTS = Path(__file__).parent / "results"
CLASSES = 10
RATE, DECAY, BATCH = 3e-3, 1e-4, 32
"""Of ``linear`` in zoo-basics, for the loop too."""
TARGETS = {"empty cache": 20.0, "empty cache, bf16": 20.0, "four augmented views": 6.0}


def picture(width: int, height: int, label: int, seed: int) -> Image.Image:
    """A photo-like picture; its class is in the colour and direction of a pattern below noise of several scales."""
    rng = np.random.default_rng([label, seed])
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / width
    turn = np.pi * label / CLASSES
    wave = np.sin((np.cos(turn) * x + np.sin(turn) * y) * rng.uniform(35, 55) + rng.uniform(0, 6))
    pixels = 128 + 30 * wave[..., None] * rng.uniform(0.3, 1, 3).astype(np.float32)
    pixels[..., label % 3] += 12 * (label // 3)
    for cells, strength in ((6, 40), (24, 18), (80, 9), (220, 5)):
        grid = rng.normal(0, strength, (max(2, cells * height // width), cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(grid[..., channel]).resize((width, height), Image.Resampling.BICUBIC)
            pixels[..., channel] += np.asarray(layer)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_folder(root: Path, count: int, width: int, height: int) -> Path:
    """``train`` and ``val`` (a fifth) of class folders."""
    for number in range(count):
        label, split = number % CLASSES, "val" if number // CLASSES % 5 == 0 else "train"
        place = root / split / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        picture(width, height, label, number).save(place / f"{number:05d}.jpg", quality=90)
    return root


def draw_digits(root: Path) -> Path:
    """The digits with their own splits, as PNG files of 64 pixels."""
    found = read_digits()
    names = {"train": "train", "test": "val"}
    for i, split in enumerate(found.splits or ()):
        if split in names:
            place = root / names[split] / str(found.values["label"][i])
            place.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(found.sources[i]).resize((64, 64), Image.Resampling.BICUBIC)
            image.convert("RGB").save(place / f"{found.ids[i]}.png")
    return root


class Clock(Reporter):
    """Notes when training began and ended, and the metrics of each epoch."""

    def __init__(self) -> None:
        self.begun = self.ended = 0.0
        self.accuracy = 0.0
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Of features."""
        if "features" in text:
            self.notes.append(text)

    def begin_phase(self, index: int, count: int, label: str, total_steps: int) -> None:
        """The first thing after assembly."""
        self.begun = time.perf_counter()

    def epoch(self, row: Mapping[str, Any]) -> None:
        """The newest accuracy on val."""
        self.accuracy = row.get("val", {}).get("accuracy", self.accuracy)

    def end_phase(self, index: int, record: Mapping[str, Any]) -> None:
        """After the last step and evaluation."""
        self.ended = time.perf_counter()


def through_zoo(data: Path, backbone: str, args: argparse.Namespace, **asked: Any) -> dict[str, Any]:
    """One run of the product."""
    clock, begun = Clock(), time.perf_counter()
    pretrained = backbone.startswith("starter/")
    settings = ("train.keep=last", "train.features=disk", *asked.pop("settings", ()))
    values = {"strategy": f"linear:{args.epochs}", **asked}
    with tempfile.TemporaryDirectory() as out:
        result = zoo.finetune(
            str(data), backbone=backbone, pretrained=pretrained, batch_size=BATCH, device=args.device, seed=0,
            out=Path(out) / "run", settings=settings, reporter=clock, **values,
        )  # fmt: skip
        accuracy = result.metrics["accuracy"]
    whole = time.perf_counter() - begun
    return {"training": clock.ended - clock.begun, "whole": whole, "accuracy": accuracy, "said": clock.notes}


def through_loop(data: Path, backbone: str, args: argparse.Namespace) -> dict[str, Any]:
    """The tutorial's loop: the frozen backbone runs in every epoch."""
    classes = sorted(p.name for p in (data / "train").iterdir())
    options = {"pretrained": backbone.startswith("starter/"), "seed": 0, "device": args.device}
    made = zoo.assemble(backbone, classes=classes, **options)
    body, width = made.model.backbone, made.backbone.spec.features["pooled"]
    torch.manual_seed(0)
    head = nn.Linear(width, len(classes)).to(args.device)
    loaders = {name: loader(data / name, made.input, args, shuffle=name == "train") for name in ("train", "val")}
    body.requires_grad_(False).eval()
    optimiser = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, args.epochs * len(loaders["train"]))
    begun = time.perf_counter()
    for _ in range(args.epochs):
        for x, y in loaders["train"]:
            loss = nn.functional.cross_entropy(head(body(x.to(args.device))), y.to(args.device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        right = count = 0
        with torch.no_grad():
            for x, y in loaders["val"]:
                right += int((head(body(x.to(args.device))).argmax(1).cpu() == y).sum())
                count += len(y)
    return {"training": time.perf_counter() - begun, "accuracy": right / count}


def loader(folder: Path, given: Any, args: argparse.Namespace, *, shuffle: bool) -> Any:
    """``ImageFolder`` under the evaluation transform, in worker processes."""
    edge = int(given.size[0] / given.crop_pct)
    mode = transforms.InterpolationMode(given.interpolation)
    steps = [transforms.Resize(edge, interpolation=mode), transforms.CenterCrop(given.size), transforms.ToTensor()]
    data = ImageFolder(str(folder), transforms.Compose([*steps, transforms.Normalize(given.mean, given.std)]))
    return torch.utils.data.DataLoader(data, BATCH, shuffle=shuffle, num_workers=args.workers)


def empty() -> None:
    """Forget all kept features."""
    for path in features_folder().glob("*/*"):
        path.unlink()


def measure(data: Path, backbone: str, args: argparse.Namespace) -> dict[str, Any]:
    """Every candidate, in turns; medians of the times."""
    rows: dict[str, list[dict[str, Any]]] = {}

    def took(name: str, row: dict[str, Any]) -> None:
        rows.setdefault(name, []).append(row)
        print(f"  {name}: {row['training']:.2f} s, accuracy {row['accuracy']:.3f}", *row.get("said", []), sep="\n    ")

    views = {"augment": "medium", "settings": ("train.views=4",)}
    for _ in range(args.repeats):
        empty()
        took("empty cache", through_zoo(data, backbone, args))
        took("kept features", through_zoo(data, backbone, args))
        empty()
        took("empty cache, bf16", through_zoo(data, backbone, args, settings=("train.features_precision=bf16",)))
        empty()
        took("four augmented views", through_zoo(data, backbone, args, **views))
        took("loop", through_loop(data, backbone, args))
    through_zoo(data, backbone, args)  # what the heads below find
    for head in ("ridge", "prototype", "knn"):
        took(f"{head}, kept features", through_zoo(data, backbone, args, head=head, strategy="fit"))
    return {name: summary(found) for name, found in rows.items()}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians."""
    return {n: statistics.median(r[n] for r in rows) for n in ("training", "whole", "accuracy") if n in rows[0]}


def report(value: dict[str, Any]) -> str:
    """The result as a page."""
    lines = ["# A linear probe of ten epochs" if value["epochs"] == 10 else "# A linear probe", ""]
    lines += [f"Command: `{value['command']}`.", f"Machine: {value['machine']}. {value['versions']}.", ""]
    lines += [
        "`training`: with all its evaluations; `whole`: from the folder to the written bundle. Ratios to the loop that"
    ]
    lines += ["reruns the frozen backbone each epoch.", ""]
    for name, rows in value["results"].items():
        lines += [f"## {name}", "", "| | training, s | ratio | wanted | whole, s | ratio | accuracy |"]
        lines += ["|---|---|---|---|---|---|---|"]
        loop = rows["loop"]["training"]
        for row, found in rows.items():
            whole = found.get("whole")
            told = [f"{whole:.2f}", f"{loop / whole:.1f}"] if whole else ["", ""]
            wanted = f"{TARGETS[row]:.0f}" if row in TARGETS else ""
            cells = [row, f"{found['training']:.2f}", f"{loop / found['training']:.1f}", wanted, *told]
            lines.append("| " + " | ".join([*cells, f"{found['accuracy']:.3f}"]) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["mobilenetv3_small_100:1000", "resnet18:320"])
    parser.add_argument("--size", default="500x375", help="pixels of the images")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="of the loop")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--digits", action="store_true", help="digits and starter/cnn in place of the models")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    asked = "--digits" if args.digits else f"--models {' '.join(args.models)} --size {args.size}"
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.digits:
            print("digits, starter/cnn")
            results["digits, starter/cnn"] = measure(draw_digits(Path(folder) / "digits"), "starter/cnn", args)
        for model in [] if args.digits else args.models:
            name, _, count = model.partition(":")
            print(model)
            data = draw_folder(Path(folder) / name, int(count), width, height)
            results[f"{name}, {count} images"] = measure(data, f"timm/{name}", args)
    value = {
        "command": f"python benchmarks/probe.py {asked} --repeats {args.repeats} --device {args.device}",
        "machine": describe_machine(),
        "versions": describe_versions("transfer-zoo", "torch", "torchvision", "timm"),
        "epochs": args.epochs,
        "results": results,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    name = "probe-digits" if args.digits else "probe"
    (args.out / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    (args.out / f"{name}.md").write_text(report(value), encoding="utf-8")
    print(report(value))
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


if __name__ == "__main__":
    main()
