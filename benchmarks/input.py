"""Images a second of one core, from JPEG file to batch: the zoo beside Pillow with timm's and with the torchvision
tutorial's training transform.

A folder of photo-like JPEGs (smooth noise of several scales, shapes, grain; quality 90) is drawn, the same every time.
Every candidate reads all files of a size in an order of its own, takes a random crop of 35 to 100 % of the area at
224 x 224 and flips half of them. Timed are a sample (read, decoded, transformed: what a worker does) and a batch,
float32 and normalised: the peers normalise each image and collate floats, the zoo collates uint8 and normalises the
batch. One process, one thread, its own CPU time, the files in the disk cache. Candidates take turns; medians.

    python benchmarks/input.py [--sizes 500x375 2000x1500] [--images 48] [--rounds 7] [--size 224]

``--cuda`` times the way to a CUDA device instead: batches through the loader with ``--workers``, with the zoo's
prefetch and with torch's DataLoader and ``.to(device)``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine, describe_versions
from PIL import Image, ImageDraw
from zoo_registry.inputs import ImageInput

from zoo.data import open_data
from zoo.data.dataset import Split
from zoo.data.loader import ViewLoader
from zoo.data.making import SampleMaker
from zoo.data.stored import StoredPixels
from zoo.data.transforms import CropView, image_views, normalise

RESULTS = Path(__file__).parent / "results"
BATCH = 16
SCALE = (0.35, 1.0)
PEER = "Pillow + timm's transform"
TARGETS = {"zoo, scaled": {500: 2.0, 2000: 3.0}, "zoo, kept in memory": {500: 13.0, 2000: 80.0}}


def picture(width: int, height: int, seed: int) -> Image.Image:
    """A photo-like picture: at quality 90 about 2 bits a pixel, as photographs have."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128, np.float32)
    for cells, strength in ((6, 50), (24, 18), (80, 9), (220, 5)):
        grid = rng.normal(0, strength, (max(2, cells * height // width), cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(grid[..., channel]).resize((width, height), Image.Resampling.BICUBIC)
            pixels[..., channel] += np.asarray(layer)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(8):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.02, 0.15) * width
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x - r, y - r, x + r, y + r), fill=colour)
    grain = rng.normal(0, 2.5, (height, width, 1)).astype(np.float32)
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def draw_folder(root: Path, width: int, height: int, count: int) -> Path:
    """``root/WIDTHxHEIGHT/CLASS/NUMBER.jpg``, two classes."""
    folder = root / f"{width}x{height}"
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(width, height, number).save(path, quality=90)
    return folder


def normal(folder: Path) -> Split:
    """All samples of the folder."""
    return open_data(folder, split="all", check_leaks=False).splits["all"]


class Ours:
    """The zoo's loader in this process."""

    def __init__(self, split: Split, input: ImageInput, short_edge: int | None) -> None:
        self.input, self.epoch = input, 0
        views = {"train": image_views(input, "medium")["train"]}
        self.maker = SampleMaker(split, views, 0, "train", short_edge)
        self.loader = ViewLoader(split, views, short_edge=short_edge)

    def samples(self, order: Sequence[int]) -> int:
        """Make the samples; how many."""
        self.epoch += 1
        return sum(bool(self.maker.make(index, draw, self.epoch)) for draw, index in enumerate(order))

    def batches(self, order: Sequence[int]) -> int:
        """Make the samples and batches of them."""
        self.epoch += 1
        plan = [[(i, s + k) for k, i in enumerate(order[s : s + BATCH])] for s in range(0, len(order), BATCH)]
        return sum(len(normalise(b.views["train"], self.input)) for b in self.loader.batches(plan, self.epoch))


class Theirs:
    """``ImageFolder`` of torchvision (Pillow) with a transform, collated by torch."""

    def __init__(self, folder: Path, transform: Callable[[Any], torch.Tensor]) -> None:
        from torchvision.datasets import ImageFolder

        self.data = ImageFolder(str(folder), transform)

    def samples(self, order: Sequence[int]) -> int:
        """Make the samples; how many."""
        return sum(bool(self.data[i]) for i in order)

    def batches(self, order: Sequence[int]) -> int:
        """Make the samples and batches of them."""
        from torch.utils.data import default_collate

        parts = [order[s : s + BATCH] for s in range(0, len(order), BATCH)]
        return sum(len(default_collate([self.data[i] for i in part])[0]) for part in parts)


def timm_transform(input: ImageInput) -> Callable[[Any], torch.Tensor]:
    """timm's training transform with the same crops and filter, without colour changes."""
    from timm.data import create_transform

    transform: Callable[[Any], torch.Tensor] = create_transform(
        (3, *input.size), is_training=True, interpolation=input.interpolation, scale=SCALE, ratio=(3 / 4, 4 / 3),
        color_jitter=None, mean=input.mean, std=input.std,
    )  # fmt: skip
    return transform


def tutorial_transform(input: ImageInput) -> Callable[[Any], torch.Tensor]:
    """The transfer-learning tutorial's: random crop (bilinear), flip, tensor, normalise."""
    from torchvision import transforms as T

    crop = T.RandomResizedCrop(input.size[0], scale=SCALE)
    return T.Compose([crop, T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(input.mean, input.std)])


def candidates(folder: Path, input: ImageInput, disk: Path) -> dict[str, Ours | Theirs]:
    """Name -> batches in an order. What is kept is full before anything is timed."""
    view = image_views(input, "medium")["train"]
    assert isinstance(view, CropView)
    plain, scaled, memory, stored = (normal(folder) for _ in range(4))
    plain.keep_at(0)
    scaled.keep_at(0)
    memory.keep_at(4 * 2**30)
    kept = StoredPixels(str(folder), 16 * 2**30, root=disk)
    kept.open(0)
    stored.keep_at(0, kept)
    return {
        PEER: Theirs(folder, timm_transform(input)),
        "Pillow + tutorial's transform": Theirs(folder, tutorial_transform(input)),
        "zoo, exact": Ours(plain, input, None),
        "zoo, scaled": Ours(scaled, input, view.short_edge),
        "zoo, kept in memory": Ours(memory, input, view.short_edge),
        "zoo, kept on disk": Ours(stored, input, view.short_edge),
    }


def measure(folder: Path, input: ImageInput, images: int, rounds: int, disk: Path) -> dict[str, dict[str, list[float]]]:
    """``sample`` and ``batch`` -> name -> CPU seconds an image, round by round."""
    made = candidates(folder, input, disk)
    times: dict[str, dict[str, list[float]]] = {what: {name: [] for name in made} for what in ("sample", "batch")}
    rng = np.random.default_rng(0)
    for number in range(rounds + 1):
        order = rng.permutation(images).tolist()
        for what in times:
            for name, one in made.items():
                begun = time.process_time()
                assert (one.samples if what == "sample" else one.batches)(order) == images
                if number:  # the first fills what is kept
                    times[what][name].append((time.process_time() - begun) / images)
    return times


def cuda_rates(folder: Path, input: ImageInput, images: int, rounds: int, workers: int) -> dict[str, float]:
    """Name -> images a second on the device, from kept images, so that the way there is what counts."""
    from torch.utils.data import DataLoader

    device = torch.device("cuda")
    view = {"train": image_views(input, "medium")["train"]}
    split = normal(folder)
    split.keep_at(4 * 2**30)
    edge = getattr(view["train"], "short_edge", None)
    plan = [[(i % images, i) for i in range(s, s + 64)] for s in range(0, 64 * 20, 64)]
    peer = DataLoader(
        Theirs(folder, timm_transform(input)).data, 64, shuffle=True, num_workers=workers, pin_memory=True,
        persistent_workers=workers > 0, drop_last=True,
    )  # fmt: skip

    def ours(loader: ViewLoader, epoch: int) -> int:
        return sum(len(normalise(b.views["train"].to(device), input)) for b in loader.batches(plan, epoch))

    def theirs() -> int:
        return sum(len(x.to(device, non_blocking=True)) for x, _ in peer)

    rates: dict[str, list[float]] = {"zoo, prefetch": [], "zoo, copied when used": [], "Pillow + timm, DataLoader": []}
    kwargs: dict[str, Any] = {"workers": workers, "short_edge": edge, "pin_memory": True}
    with ViewLoader(split, view, **kwargs, device=device) as ahead, ViewLoader(split, view, **kwargs) as plain:
        runs = dict(zip(rates, (lambda e: ours(ahead, e), lambda e: ours(plain, e), lambda e: theirs()), strict=True))
        for number in range(rounds + 1):
            for name, run in runs.items():
                torch.cuda.synchronize()
                begun = time.perf_counter()
                count = run(number)
                torch.cuda.synchronize()
                if number:
                    rates[name].append(count / (time.perf_counter() - begun))
    return {name: statistics.median(values) for name, values in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["500x375", "2000x1500"], help="WIDTHxHEIGHT of the files")
    parser.add_argument("--images", type=int, default=48, help="files of each size")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=224, help="what the model is fed")
    parser.add_argument("--cuda", action="store_true", help="time the way to a CUDA device instead")
    parser.add_argument("--workers", type=int, default=8, help="of --cuda")
    parser.add_argument("--dry", action="store_true", help="write no results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    input = ImageInput(size=(args.size, args.size))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for size in args.sizes:
            width, height = map(int, size.split("x"))
            folder = draw_folder(Path(place), width, height, args.images)
            if args.cuda:
                found[size] = cuda_rates(folder, input, args.images, args.rounds, args.workers)
                continue
            times = measure(folder, input, args.images, args.rounds, Path(place) / "kept")
            each = statistics.mean(p.stat().st_size for p in folder.rglob("*.jpg"))
            found[size] = {"kilobytes": each / 1000, **{what: summary(by_name) for what, by_name in times.items()}}
    command = f"python benchmarks/input.py --sizes {' '.join(args.sizes)} --images {args.images} --rounds {args.rounds}"
    value = {
        "command": command + (f" --cuda --workers {args.workers}" if args.cuda else ""),
        "machine": describe_machine() + (f", {torch.cuda.get_device_name()}" if args.cuda else ""),
        "versions": describe_versions("torch", "torchvision", "pillow", "timm"),
        "input": args.size,
        "targets": TARGETS,
        "sizes": found,
    }
    page = cuda_report(value) if args.cuda else report(value)
    if not args.dry:
        name = "input-cuda" if args.cuda else "input"
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        (RESULTS / f"{name}.md").write_text(page, encoding="utf-8")
    print(page)


def summary(times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians: images a second, and how many times as fast as the peer."""
    ratios = {name: statistics.median(p / o for p, o in zip(times[PEER], t, strict=True)) for name, t in times.items()}
    return {"images_per_second": {n: 1 / statistics.median(t) for n, t in times.items()}, "ratios": ratios}


def report(value: dict[str, Any]) -> str:
    """The result as a page."""
    lines = ["# From JPEG file to batch, one core", "", *_head(value)]
    for size, found in value["sizes"].items():
        lines += [f"## {size}, {found['kilobytes']:.0f} kB a file", ""]
        lines += ["| candidate | samples/s | ratio | wanted | in batches/s | ratio |", "|---|---|---|---|---|---|"]
        sample, batch = found["sample"], found["batch"]
        for name, rate in sample["images_per_second"].items():
            wanted = TARGETS.get(name, {}).get(int(size.split("x")[0]))
            cells = [name, f"{rate:.0f}", f"{sample['ratios'][name]:.2f}", f"{wanted:g}" if wanted else ""]
            cells += [f"{batch['images_per_second'][name]:.0f}", f"{batch['ratios'][name]:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def cuda_report(value: dict[str, Any]) -> str:
    """The result of ``--cuda`` as a page."""
    lines = ["# From JPEG file to CUDA device", "", *_head(value), "| files | candidate | images/s |", "|---|---|---|"]
    lines += [f"| {s} | {name} | {rate:.0f} |" for s, rates in value["sizes"].items() for name, rate in rates.items()]
    return "\n".join([*lines, ""])


def _head(value: dict[str, Any]) -> list[str]:
    where = f"Machine: {value['machine']}. {value['versions']}. {value['input']} pixels."
    return [f"Command: `{value['command']}`.", where, f"Medians of rounds in turns; ratios to {PEER}.", ""]


if __name__ == "__main__":
    main()
