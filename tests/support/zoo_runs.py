"""Fixtures and helpers for tests of whole commands: drawn photographs, a small finished run, the command in-process.

``pytest_plugins = ["zoo_runs"]`` in a conftest makes the fixtures known.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import canary
import numpy as np
import pytest
from hub_fixtures import write_manifest
from PIL import Image

CLASSES = ("checks", "rings", "stripes")


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed as JSON."""
        return json.loads(self.out)

    def lines(self, start: str) -> list[str]:
        """The lines of standard error that start so, without the start."""
        return [line.removeprefix(start).strip() for line in self.err.splitlines() if line.startswith(start)]


def zoo(*arguments: object) -> Outcome:
    """Run ``zoo ARGUMENTS`` in this process."""
    from zoo.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    for text in (out.getvalue(), err.getvalue()):
        canary.check(text, f"what zoo {arguments[:1]} printed")
    return Outcome(code, out.getvalue(), err.getvalue())


def done(*arguments: object) -> Outcome:
    """Like :func:`zoo`, but the command must succeed."""
    outcome = zoo(*arguments)
    assert outcome.code == 0, f"zoo {' '.join(map(str, arguments))}\n{outcome.out}\n{outcome.err}"
    return outcome


def picture(kind: str, seed: int, size: int = 48) -> np.ndarray:
    """A uint8 [size, size, 3] picture of one of :data:`CLASSES`: phase, period, colours and noise are drawn."""
    rng = np.random.default_rng([CLASSES.index(kind), seed])
    y, x = np.mgrid[0:size, 0:size] / size
    period, phase = rng.uniform(3, 5), rng.uniform(0, 6)
    waves = {
        "checks": np.sign(np.sin(2 * np.pi * period * x + phase) * np.sin(2 * np.pi * period * y + phase)),
        "rings": np.sin(2 * np.pi * period * 1.5 * np.hypot(x - 0.5, y - 0.5) + phase),
        "stripes": np.sin(2 * np.pi * period * x + phase),
    }[kind]
    light, dark = rng.uniform(140, 255, 3), rng.uniform(0, 110, 3)
    mixed = dark + (light - dark) * (waves[..., None] + 1) / 2
    return (mixed + rng.normal(0, 6, mixed.shape)).clip(0, 255).astype(np.uint8)


def draw_photos(root: Path, each: int = 10, kinds: tuple[str, ...] = CLASSES, size: int = 48) -> Path:
    """``root/KIND/N.jpg``; of each class one is a grey PNG, one CMYK, and one carries an EXIF rotation."""
    for kind in kinds:
        (root / kind).mkdir(parents=True)
        for number in range(each):
            image = Image.fromarray(picture(kind, number, size))
            if number == 1:
                image.convert("L").save(root / kind / f"{number}.png")
            elif number == 2:
                image.convert("CMYK").save(root / kind / f"{number}.jpg")
            else:
                exif = Image.Exif()
                exif[274] = 6 if number == 3 else 1
                image.save(root / kind / f"{number}.jpg", quality=90, exif=exif)
    return root


def edit_bundle(folder: Path, **changes: Any) -> Path:
    """Change values of ``zoo.json`` (dots reach into it: ``head__form``) and write the manifest again."""
    path = folder / "zoo.json"
    document = json.loads(path.read_text())
    for name, value in changes.items():
        *parts, last = name.split("__")
        spot = document
        for part in parts:
            spot = spot[int(part) if part.isdigit() else part]
        spot[int(last) if last.isdigit() else last] = value
    path.write_text(json.dumps(document))
    write_manifest(folder)
    return folder


def assembled(
    head: str, kind: str = "classification", classes: tuple[str, ...] = ("a", "b", "c"), **options: Any
) -> Any:
    """A random small model with weights that are far from zero, so that folding errors show."""
    import torch
    from zoo_registry import Column, Registry

    from zoo.assembly.assemble import assemble_model

    columns = (Column(name="label", kind=kind, classes=classes),)
    made = assemble_model(
        Registry(), backbone="starter/cnn", head=head, columns=columns, pretrained=False, head_options=options
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in [*made.model.head.parameters(), *made.model.head.buffers()]:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    return made


def written(folder: Path, made: Any, **findings: Any) -> Any:
    """The model's bundle in ``folder``."""
    from zoo_registry import Registry

    from zoo.bundle.write import Findings, write_bundle
    from zoo.recipe import Component, Recipe, parse_strategy

    names = (Component(name=made.backbone.name), Component(name=made.head.name))
    recipe = Recipe(backbone=names[0], head=names[1], phases=parse_strategy("basics/linear:1"), pretrained=False)
    return write_bundle(folder, made, recipe, Findings(**findings), Registry())


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 drawn photographs of three classes."""
    return draw_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def finished_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the small CNN with installed weights on :func:`photos`; for reading only."""
    out = tmp_path_factory.mktemp("runs") / "run"
    asked = ("--backbone", "starter/cnn", "--head", "linear", "--strategy", "linear:2,full:1", "--batch-size", "16")
    done("finetune", photos, *asked, "--out", out)
    return out


@pytest.fixture
def own_bundle(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the run's bundle to spoil."""
    return Path(shutil.copytree(finished_run / "model", tmp_path / "bundle"))
