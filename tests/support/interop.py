"""Models of every kind in bundles, and what the zoo says of them, for the real clients to be held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from zoo_registry import Column, Registry
from zoo_runs import CLASSES, picture

from zoo.assembly.assemble import Assembled, assemble_model
from zoo.bundle.read import LoadedModel, load_bundle
from zoo.bundle.write import Findings, write_bundle
from zoo.recipe import Component, Recipe, parse_strategy

METRICS = {"val": {"accuracy": 0.75, "macro_f1": 0.5}, "test": {"accuracy": 0.625}}


def drawn_model(
    backbone: str,
    head: str = "basics/linear",
    *,
    kind: str = "classification",
    classes: tuple[str, ...] = CLASSES,
    image_size: int | None = 64,
    **more: Any,
) -> Assembled:
    """A model with random weights that lie far from zero, statistics of BatchNorm too: every fault shows."""
    columns = (Column(name="label", kind=kind, classes=classes),)
    made = assemble_model(
        Registry(), backbone=backbone, head=head, columns=columns, pretrained=False, image_size=image_size, **more
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in made.model.named_buffers():
            if name.endswith("running_mean"):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
            elif name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        for value in made.model.head.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
    if not made.head.spec.gradient:
        width = made.backbone.spec.features[made.features]
        given, targets = torch.randn(30, width, generator=generator), torch.arange(30) % len(classes)
        made.model.head.fit(given, {"label": targets})
    made.model.eval()
    return made


def write_model(folder: Path, made: Assembled, strategy: str = "basics/linear:1") -> Path:
    """Its bundle, with metrics for the card."""
    names = (Component(name=made.backbone.name), Component(name=made.head.name))
    recipe = Recipe(backbone=names[0], head=names[1], phases=parse_strategy(strategy), pretrained=False)
    data = {"name": "patterns", "form": "folder"}
    write_bundle(folder, made, recipe, Findings(metrics=METRICS, data=data), Registry())
    return folder


def photo_files(folder: Path) -> list[Path]:
    """A plain photograph, one that its EXIF turns by a quarter, and a grey one; not square."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, (kind, orientation) in enumerate((("checks", 1), ("rings", 6), ("stripes", 1))):
        image = Image.fromarray(picture(kind, 70 + number, 96)).crop((0, 0, 96, 72))
        exif = Image.Exif()
        exif[274] = orientation
        if kind == "stripes":
            image = image.convert("L")
        image.save(folder / f"{kind}.png", exif=exif)
        files.append(folder / f"{kind}.png")
    return files


def fed(loaded: LoadedModel, file: Path) -> torch.Tensor:
    """The normalised tensor [1, C, H, W] that the zoo feeds its model for a file."""
    from zoo.data.decode import decode_image
    from zoo.training.pipeline import Pipeline

    pipeline = Pipeline(loaded.model.backbone, loaded.input, torch.device("cpu"))
    pixels = torch.from_numpy(decode_image(file)).permute(2, 0, 1)
    generator = torch.Generator().manual_seed(0)
    try:
        view = pipeline.transform("eval")(pixels)
    except TypeError:
        view = pipeline.transform("eval")(pixels, generator)
    return pipeline.feed(view[None])


@torch.no_grad()
def say(bundle: Path, files: list[Path], to: Path) -> dict[str, torch.Tensor]:
    """What the zoo says: ``x``, its ``logits``, ``features`` and ``level0``..., and ``fed.N`` of each file; also saved.

    One thread, as the clients have it: equal bits want equal sums.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        loaded = load_bundle(bundle, Registry())
        given = loaded.input
        x = torch.randn(2, given.channels, *given.size, generator=torch.Generator().manual_seed(1))
        told = {"x": x, "logits": loaded.model.predict(x)["label"], "features": loaded.model.backbone(x)}
        if "intermediates" in Registry().backbone(loaded.document.backbone).spec.capabilities:
            told |= {f"level{n}": level for n, level in enumerate(loaded.model.backbone.intermediates(x))}
        told |= {f"fed.{number}": fed(loaded, file) for number, file in enumerate(files)}
        told |= {f"said.{n}": loaded.model.predict(told[f"fed.{n}"])["label"] for n in range(len(files))}
    finally:
        torch.set_num_threads(threads)
    told = {name: value.contiguous().clone() for name, value in told.items()}
    save_file(told, to)
    return told


def write_job(path: Path, **values: Any) -> Path:
    """What a client process is told."""
    path.write_text(json.dumps(values, default=str))
    return path
