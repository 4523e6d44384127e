"""Accuracy and speed facts from the CSV files in timm's ``results/`` folder (Apache-2.0)."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

AS_OF = "2026-08-08"

ACCURACY = {
    "imagenet_top1": ("results-imagenet.csv", "top1"),
    "imagenet_top5": ("results-imagenet.csv", "top5"),
    "imagenet_real_top1": ("results-imagenet-real.csv", "top1"),
    "imagenet_v2_top1": ("results-imagenetv2-matched-frequency.csv", "top1"),
    "imagenet_sketch_top1": ("results-sketch.csv", "top1"),
    "imagenet_a_top1": ("results-imagenet-a.csv", "top1"),
    "imagenet_r_top1": ("results-imagenet-r.csv", "top1"),
}
"""Fact -> file and column, in per cent, keyed by architecture and tag."""

SPEED = {
    "gpu_images_per_second": ("benchmark-infer-amp-nchw-pt291-cu128-4090.csv", "RTX 4090, mixed precision"),
    "cpu_images_per_second": ("benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv", "i9-10940X, batch 1"),
}
"""Fact -> file and machine, inference, keyed by architecture."""


def read_results(folder: Path, names: Iterable[str], sizes: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Fact -> ``{"source", "row", "value", "size"}``: row numbers of ``names``, values, and image sizes.

    Args:
        folder: timm's ``results/``.
        names: the catalogue's names in order.
        sizes: name -> input size in pixels. Where a file has several sizes, the closest to it is taken; the source
            of each fact tells which.
    """
    ordered = list(names)
    columns = {
        fact: _column(
            _table(folder / file, "img_size", value), f"timm results/{file} of {AS_OF}", ordered, sizes, False
        )
        for fact, (file, value) in ACCURACY.items()
    }
    for fact, (file, machine) in SPEED.items():
        table = _table(folder / file, "infer_img_size", "infer_samples_per_sec")
        columns[fact] = _column(table, f"timm results/{file} of {AS_OF} ({machine})", ordered, sizes, True)
    return columns


def _table(path: Path, size: str, value: str) -> dict[str, dict[int, float]]:
    """Model -> image size -> value."""
    table: dict[str, dict[int, float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            table.setdefault(row["model"], {})[int(row[size])] = float(row[value].replace(",", ""))
    return table


def _column(
    table: Mapping[str, Mapping[int, float]], source: str, names: list[str], sizes: Mapping[str, int], untagged: bool
) -> dict[str, Any]:
    column: dict[str, Any] = {"source": source, "row": [], "value": [], "size": []}
    for index, name in enumerate(names):
        values = table.get(name.partition(".")[0] if untagged else name)
        if values:
            size = min(values, key=lambda s: (abs(s - sizes[name]), s))
            column["row"].append(index)
            column["value"].append(values[size])
            column["size"].append(size)
    return column
