"""``zoo demo``: the whole job on scikit-learn's handwritten digits, without a network."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from zoo_registry import Registry, UsageError

from zoo.cli.output import emit, json_option, open_registry, say, table

LABELS = 5
"""Labels a class that the transfer run gets."""
RECIPE = "linear:40,full:10"
SCRATCH = "full:150s"
MORE_LABELS = (5, 10, 20)
"""Labels a class that the runs from scratch get, until one is as good."""
OWNER = "demo"


@dataclass(frozen=True)
class Row:
    """A run of the comparison."""

    name: str
    labels: int
    accuracy: float
    seconds: float
    steps: int


@click.command()
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to work; zoo-demo by default.")
@click.option("--backbone", metavar="NAME", help="Backbone; the smallest one with installed weights by default.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the labels; seeds everything else.")
@json_option
def demo(out: Path | None, backbone: str | None, seed: int, as_json: bool) -> None:
    """The whole job on handwritten digits with few labels: list, fine-tune, compare with scratch, push, pull, predict.

    It needs no network and takes a minute or two on two cores.

    \b
    Example:
      zoo demo
      zoo demo --out first-try --json
    """
    registry = open_registry()
    folder = out or _free(Path("zoo-demo"))
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{str(folder)!r} exists and is not empty", hint="choose another --out")
    name = backbone or pick_backbone(registry)
    begun = time.monotonic()
    _heading("1. What is installed", as_json)
    _count(registry, as_json)
    _heading(f"2. Fine-tune {name} on {LABELS} labels a class", as_json)
    transfer, result = _run(registry, name, LABELS, RECIPE, folder / "run", seed, pretrained=True, as_json=as_json)
    _heading("3. The same network from scratch", as_json)
    rows = [transfer]
    for labels in MORE_LABELS:
        out_dir = folder / f"scratch-{labels}"
        row, _ = _run(registry, name, labels, SCRATCH, out_dir, seed, pretrained=False, as_json=as_json, quiet=True)
        rows.append(row)
        say(f"  {labels} labels a class: accuracy {row.accuracy:.3f} in {row.seconds:.0f} s", as_json=as_json)
        if row.accuracy >= transfer.accuracy:
            break
    _heading("4. Transfer gain", as_json)
    gain = transfer_gain(rows)
    _print_gain(rows, gain, as_json)
    _tell_gain(result.model, folder / f"scratch-{LABELS}")
    _heading("5. Publish to a hub that is a folder, get it back, predict", as_json)
    published = _publish(folder, result.model, as_json)
    _heading(f"Done in {time.monotonic() - begun:.0f} s. Three commands to try next", as_json)
    for command in next_commands(folder):
        say(f"  {command}", as_json=as_json)
    value = {"backbone": name, "rows": [vars(row) for row in rows], "gain": gain, **published, "out": str(folder)}
    emit(value, as_json, lambda: None)


def pick_backbone(registry: Registry) -> str:
    """The first backbone whose weights are installed.

    Raises:
        UsageError: there is none.
    """
    from zoo.assembly.weights import installed_backbones

    names = installed_backbones(registry)
    if not names:
        hint = "install a plugin that does, or choose one whose weights can be fetched: --backbone NAME"
        raise UsageError("no installed plugin brings weights with it", hint=hint)
    return names[0]


def transfer_gain(rows: list[Row]) -> dict[str, Any]:
    """Gain in accuracy at equal labels, labels that scratch needs for equal accuracy, and the ratio of the times.

    ``labels_needed`` is None where no run from scratch became as good; it then needs more than the most tried.
    """
    transfer, scratch = rows[0], rows[1:]
    equal = next(row for row in scratch if row.labels == transfer.labels)
    reached = next((row for row in scratch if row.accuracy >= transfer.accuracy), None)
    return {
        "accuracy": transfer.accuracy - equal.accuracy,
        "labels_needed": reached.labels if reached else None,
        "most_tried": max(row.labels for row in scratch),
        "time_ratio": equal.seconds / transfer.seconds,
    }


def next_commands(folder: Path) -> list[str]:
    """What to try after the demo."""
    return [
        "zoo list backbones --weights safe --max-parameters 10 --sort accuracy --limit 10",
        "zoo finetune YOUR_FOLDER --strategy linear:3,full:10 --out my-run --dry-run",
        f"zoo evaluate {OWNER}/digits digits: --hub {folder / 'hub'}",
    ]


def _run(
    registry: Registry,
    backbone: str,
    labels: int,
    strategy: str,
    out: Path,
    seed: int,
    *,
    pretrained: bool,
    as_json: bool,
    quiet: bool = False,
) -> tuple[Row, Any]:
    from zoo import finetuning
    from zoo.cli.plan import print_recipe
    from zoo.planning import Request, make_plan
    from zoo.training.progress import Reporter

    request = Request(
        data=f"digits:?labels={labels}&seed={seed}",
        backbone=backbone,
        strategy=strategy,
        seed=seed,
        pretrained=pretrained,
        settings=() if pretrained else ("strategy.rate=0.002",),
        train={"batch_size": 32, "evaluate_every": 1 if pretrained else 10},
    )
    plan = make_plan(request, registry)
    if not quiet:
        print_recipe(plan, registry, err=as_json)
    begun = time.monotonic()
    reporter: Reporter = Reporter()
    if not quiet:
        from zoo.cli.finetune import open_live_reporter

        with open_live_reporter(as_json) as reporter:
            result = finetuning.execute_plan(plan, registry, out=out, reporter=reporter)
    else:
        result = finetuning.execute_plan(plan, registry, out=out, reporter=reporter)
    seconds = time.monotonic() - begun
    name = f"transfer ({strategy})" if pretrained else f"scratch ({strategy})"
    per_epoch = -(-len(plan.data.split("train")) // 32)
    lengths = [p.steps if p.steps is not None else (p.epochs or 0) * per_epoch for p in plan.recipe.phases]
    return Row(name, labels, result.metrics["accuracy"], seconds, sum(lengths)), result


def _print_gain(rows: list[Row], gain: dict[str, Any], as_json: bool) -> None:
    cells = [[r.name, str(r.labels), f"{r.accuracy:.3f}", str(r.steps), f"{r.seconds:.0f}"] for r in rows]
    table(cells, ["run", "labels a class", "accuracy", "steps", "seconds"], err=as_json)
    needed = gain["labels_needed"]
    say(f"at equal labels: {gain['accuracy']:+.3f} accuracy", as_json=as_json)
    wanted = f"{needed}" if needed else f"more than {gain['most_tried']}"
    say(f"for equal accuracy scratch needs {wanted} labels a class, transfer {rows[0].labels}", as_json=as_json)
    times = ", ".join(f"{row.seconds:.0f} s with {row.labels}" for row in rows[1:])
    say(f"time: transfer {rows[0].seconds:.0f} s; scratch {times} labels a class", as_json=as_json)


def _tell_gain(bundle: Path, scratch: Path) -> None:
    """Write the gain over scratch on the same labels into the model's card."""
    from zoo.cards import render, renew

    renew(bundle, render(bundle, against=[scratch]))


def _publish(folder: Path, bundle: Path, as_json: bool) -> dict[str, Any]:
    from zoo.hub import open_hub
    from zoo.models import load_model
    from zoo.prediction import predict_files
    from zoo.publishing import publish

    hub = str(folder / "hub")
    pushed = publish(bundle, f"{OWNER}/digits", hub=hub)
    say(f"published {pushed.name} at {pushed.revision[:12]}", as_json=as_json)
    say("a fresh process had reproduced its golden logits", as_json=as_json)
    pulled = open_hub(hub).pull(pushed.name, pushed.revision)
    say(f"pulled it back, every sha256 checked: {pulled.path}", as_json=as_json)
    images = write_digits(folder / "images")
    loaded = load_model(f"{OWNER}/digits", Registry(), hub=hub)
    predictions = list(predict_files(loaded, [str(path) for path in images]))
    for row in predictions:
        say(f"  {Path(row.file).name}: {row.label} ({row.score:.3f})", as_json=as_json)
    published = {"name": pushed.name, "revision": pushed.revision}
    return {"published": published, "predictions": [row.to_json() for row in predictions]}


def write_digits(folder: Path, count: int = 3) -> list[Path]:
    """A few of the digits as PNG files, named after what they show."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    folder.mkdir(parents=True, exist_ok=True)
    found = load_digits()
    paths = []
    for index in range(count):
        pixels = np.round(found.images[-1 - index] * (255 / 16)).astype(np.uint8)
        path = folder / f"a-{found.target[-1 - index]}-{index + 1}.png"
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return paths


def _count(registry: Registry, as_json: bool) -> None:
    for kind, plural in (("backbone", "backbones"), ("head", "heads"), ("strategy", "strategies")):
        entries = registry.entries(kind)
        shown = ", ".join(dict.fromkeys(e.name for e in entries[:6])) if kind != "backbone" else ""
        spaces = ", ".join(dict.fromkeys(e.namespace for e in entries))
        say(f"  {len(entries)} {plural} from {spaces}" + (f": {shown}" if shown else ""), as_json=as_json)


def _heading(text: str, as_json: bool) -> None:
    say(as_json=as_json)
    say(text, as_json=as_json, bold=True)


def _free(path: Path) -> Path:
    number = 2
    chosen = path
    while chosen.exists():
        chosen = path.with_name(f"{path.name}-{number}")
        number += 1
    return chosen
