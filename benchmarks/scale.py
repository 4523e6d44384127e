"""What size costs: listing a data folder of up to a million files, and the command line among 20,000 backbones.

``files``: a folder of classes with up to 1,000 one-pixel images each (hard links) is opened by ``zoo.data.open_data``,
listed for prediction, and listed by torchvision's ``ImageFolder``. ``backbones``: 100 distributions, generated as pip
would install them, offer so many backbones; ``zoo list``, ``zoo show`` and a mistyped name run in their own processes.

Each measurement has a process of its own; candidates take turns; medians. Time, and the peak of memory beyond what the
imports took (``files``) or of the process (``backbones``). The exponent is that of cost = size ** exponent between the
two largest sizes: 1 is linear.

    python benchmarks/scale.py [--only files|backbones] [--files 10000 100000 1000000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from machine import describe_machine, describe_versions

RESULTS = Path(__file__).parent / "results"
LINKS = 30_000  # a file system allows only so many names for one file
DISTRIBUTIONS = 100

PEAK = """
def peak():  # of this process alone: getrusage's goes back to what started it
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
"""

COMMAND = (
    PEAK
    + """
import sys
from zoo.cli.main import main
code = main(sys.argv[1:])
print(peak(), file=sys.stderr)
sys.exit(code)
"""
)

LISTING = (
    PEAK
    + """
import sys, time
root, what = sys.argv[1:]
if what == "ImageFolder":
    from torchvision.datasets import ImageFolder
else:
    import numpy, PIL.Image, zoo.data.opening, zoo.data.building, zoo.data.folder, zoo.data.files
before = peak()
begun = time.perf_counter()
if what == "ImageFolder":
    count = len(ImageFolder(root))
elif what == "zoo data":
    data = zoo.data.opening.open_data(root)
    count = sum(map(len, data.splits.values()))
else:
    count = sum(1 for _ in zoo.data.files.find_files([root]))
seconds = time.perf_counter() - begun
print(count, seconds, peak() - before)
"""
)

MODULE = """
from zoo_registry import BackboneSpec, ImageInput, PluginInfo, hookimpl

@hookimpl
def zoo_plugin():
    return PluginInfo(summary="generated")

@hookimpl
def zoo_backbones():
    given = ImageInput(size=(224, 224))
    return [
        BackboneSpec(
            name=f"{{family}}{{width}}_{number:03d}.v{{index}}", summary="a generated backbone",
            factory="nowhere:build", input=given, features={{"pooled": 512}}, family=family, parameters=1000 * index,
            capabilities=frozenset({{"blocks"}}),
        )
        for index, (family, width) in enumerate(
            (family, width) for width in range(18, 18 + {each}) for family in ("resnetish", "vitlike", "convy", "mixer")
        )
    ][:{each}]
"""


def tree(root: Path, count: int) -> None:
    """``root/class_NNNN/image_NNNNNNN.png``, up to 1,000 a class, hard links of a few files of one pixel."""
    from PIL import Image

    source = root.parent / "pixels"
    source.mkdir(exist_ok=True)
    each = min(1000, count // 10)
    for number in range(count):
        place = root / f"class_{number // each:04d}"
        if number % each == 0:
            place.mkdir(parents=True)
        if number % LINKS == 0:
            pixel = source / f"{root.name}-{number}.png"
            Image.new("RGB", (1, 1)).save(pixel)
        os.link(pixel, place / f"image_{number:07d}.png")


def distributions(root: Path, count: int) -> None:
    """``count`` backbones from :data:`DISTRIBUTIONS` installed distributions."""
    root.mkdir()
    each = count // DISTRIBUTIONS
    for number in range(DISTRIBUTIONS):
        (root / f"zoo_generated_{number:03d}.py").write_text(MODULE.format(number=number, each=each))
        info = root / f"zoo_generated_{number:03d}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: zoo-generated-{number:03d}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[zoo]\ngenerated-{number:03d} = zoo_generated_{number:03d}\n")


COMMANDS = {
    "zoo list": ("list", "backbones", "--json"),
    "zoo show": ("show", "generated-042/resnetish18_042.v0"),
    "short name": ("show", "backbone", "resnetish18_042.v0"),
    "mistyped": ("show", "backbone", "resnetsih18_042.v0"),
}


def list_files(folder: Path, what: str) -> tuple[float, float]:
    """Seconds and MiB of one listing."""
    command = [sys.executable, "-c", LISTING, str(folder), what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    _, seconds, peak = done.stdout.split()
    return float(seconds), float(peak)


def run_zoo(folder: Path, arguments: tuple[str, ...]) -> tuple[float, float]:
    """Seconds and peak MiB of one command."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "NO_COLOR": "1"}
    environment.pop("ZOO_PLUGINS", None)
    command = [sys.executable, "-c", COMMAND, *arguments]
    begun = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode not in (0, 2):
        raise RuntimeError(f"zoo {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return seconds, float(done.stderr.split()[-1])


def measure_files(sizes: list[int], rounds: int, place: Path) -> Iterator[dict]:
    for size in sizes:
        root = place / f"tree-{size}"
        tree(root, size)
        yield from _rows(size, rounds, {w: (list_files, root, w) for w in ("zoo data", "zoo predict", "ImageFolder")})


def measure_backbones(sizes: list[int], rounds: int, place: Path) -> Iterator[dict]:
    for size in sizes:
        root = place / f"site-{size}"
        distributions(root, size)
        yield from _rows(size, rounds, {name: (run_zoo, root, words) for name, words in COMMANDS.items()})


def _rows(size: int, rounds: int, jobs: dict) -> list[dict]:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, (function, *arguments) in jobs.items():
            found[name].append(function(*arguments))
    rows = []
    for name, values in found.items():
        seconds, peak = (statistics.median(column) for column in zip(*values, strict=True))
        rows.append({"candidate": name, "size": size, "seconds": seconds, "mib": peak})
        print(f"{name:12} {size:>9,}  {seconds:8.2f} s  {peak:8.1f} MiB", file=sys.stderr)
    return rows


def exponent(rows: list[dict], candidate: str, cost: str) -> float | None:
    """Of cost = size ** exponent between the two largest sizes."""
    points = [(row["size"], row[cost]) for row in rows if row["candidate"] == candidate and row[cost] > 0][-2:]
    if len(points) < 2:
        return None
    return math.log(points[1][1] / points[0][1]) / math.log(points[1][0] / points[0][0])


def draw(parts: dict[str, list[dict]], path: Path) -> None:
    """Time and memory against size, both axes logarithmic, a dotted line of what is linear."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(parts), 2, figsize=(10, 4 * len(parts)), squeeze=False, layout="constrained")
    for line, (part, rows) in zip(axes, parts.items(), strict=True):
        for axis, cost, unit in ((line[0], "seconds", "time (s)"), (line[1], "mib", "memory (MiB)")):
            for name in dict.fromkeys(row["candidate"] for row in rows):
                mine = [row for row in rows if row["candidate"] == name and row[cost] > 0]
                axis.plot([r["size"] for r in mine], [r[cost] for r in mine], marker="o", label=name)
            last = [row for row in rows if row["size"] == rows[-1]["size"] and row[cost] > 0]
            first, top = rows[0]["size"], min((r[cost] for r in last), default=1.0)
            ends = [first, rows[-1]["size"]]
            axis.plot(ends, [top * first / ends[1], top], color="grey", linestyle=":", label="linear")
            axis.set(xscale="log", yscale="log", xlabel=part, ylabel=unit)
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
    figure.savefig(path, dpi=70)


def report(value: dict, command: str) -> str:
    """The result as a page."""
    lines = ["# What size costs", "", f"Command: `{command}`.", f"Machine: {value['machine']}. {value['versions']}."]
    lines += ["Medians; memory is the peak beyond the imports (files) or of the whole process (backbones).", ""]
    lines += ["![cost against size](scale.png)", ""]
    for part, rows in value["parts"].items():
        sizes = list(dict.fromkeys(row["size"] for row in rows))
        lines += [f"## {part}", "", "| | " + " | ".join(f"{s:,}" for s in sizes) + " | exponent of time, of memory |"]
        lines.append("|---" * (len(sizes) + 2) + "|")
        for name in dict.fromkeys(row["candidate"] for row in rows):
            mine = {row["size"]: row for row in rows if row["candidate"] == name}
            cells = [f"{mine[s]['seconds']:.2f} s, {mine[s]['mib']:.0f} MiB" for s in sizes]
            powers = [exponent(rows, name, cost) for cost in ("seconds", "mib")]
            words = ", ".join("-" if p is None else f"{p:.2f}" for p in powers)
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {words} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["files", "backbones"], help="one of the two parts")
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="sizes of folders")
    parser.add_argument("--backbones", type=int, nargs="+", default=[100, 1_000, 5_000, 20_000], help="sizes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--place", help="where folders are made; a temporary folder by default")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.place) as place:
        parts: dict[str, list[dict]] = {}
        if given.only != "backbones":
            parts["files"] = list(measure_files(sorted(given.files), given.rounds, Path(place)))
        if given.only != "files":
            parts["backbones"] = list(measure_backbones(sorted(given.backbones), given.rounds, Path(place)))
    versions = describe_versions("transfer-zoo", "torchvision", "numpy")
    value = {"machine": describe_machine(), "versions": versions, "rounds": given.rounds, "parts": parts}
    given.results.mkdir(exist_ok=True)
    (given.results / "scale.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    command = f"python benchmarks/scale.py --rounds {given.rounds}"
    (given.results / "scale.md").write_text(report(value, command), encoding="utf-8")
    draw(parts, given.results / "scale.png")
    print(report(value, command))


if __name__ == "__main__":
    main()
