"""Runs on the tiny zoo, killed and resumed, and what is compared of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import tiny_zoo
import torch
from zoo_registry import Registry, Strategy, StrategySpec
from zoo_registry.strategy import compose

from zoo import finetuning
from zoo.assembly.assemble import assemble_model
from zoo.data import open_data
from zoo.data.dataset import Dataset
from zoo.determinism import reproducible
from zoo.planning import Request
from zoo.recipe.recipe import Component, PhaseRecipe, TrainOptions
from zoo.training.checkpoint import CheckpointFolder
from zoo.training.guard import tensor_hash
from zoo.training.log import MetricsLog
from zoo.training.loop import train
from zoo.training.progress import Reporter
from zoo.training.run import Phase, TrainingRun

SETTINGS = ("train.batch_size=8", "train.threads=1", "train.checkpoint_every=1e-9")


def request(data=None, strategy="freeze:2,whole:2", backbone="norm", *settings: str, **more) -> Request:
    """A request of a run that takes a second."""
    source = tiny_zoo.drawn_splits() if data is None else data
    more.setdefault("train", {"augment": "light"})
    parts = {"backbone": f"tiny/{backbone}", "head": "tiny/head"}
    if "/" in backbone:
        parts = {"backbone": backbone, "head": "basics/linear", "image_size": 32}
    return Request(
        data=source, strategy=strategy, settings=(*SETTINGS, *settings), pretrained=False, **parts, **more,
    )  # fmt: skip


def start(out: Path, asked: Request, registry: Registry | None = None, **arguments):
    """Run it here."""
    arguments.setdefault("device", "cpu")
    return finetuning.start(asked, registry or tiny_zoo.registry(), out=out, **arguments)


def resume(out: Path, asked: Request, registry: Registry | None = None, **arguments):
    """Go on with it here."""
    told = Request(data=asked.data, train=arguments.pop("train", {}), settings=arguments.pop("settings", ()))
    arguments.setdefault("device", "cpu")
    return finetuning.resume(registry or tiny_zoo.registry(), out=out, asked=told, **arguments)


def at_call(function: Callable, number: int, act: Callable[[], object], after: bool = False) -> Callable:
    """``function``, but its ``number``-th call (from 1) does ``act`` before (or after) its own work."""
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == number and not after:
            act()
        result = function(*args, **kwargs)
        if calls == number and after:
            act()
        return result

    return wrapped


def outcome(out: Path) -> dict[str, object]:
    """What two equal runs must agree in, byte by byte: weights, figures, metrics, and in the newest checkpoint the
    optimiser, what strategies keep (averages) and the weights before the end of the last phase. The recipe's workers
    are left out.
    """
    files = [p for p in sorted(out.rglob("*")) if p.suffix in (".safetensors", ".png") and "checkpoints" not in p.parts]
    found: dict[str, object] = {p.relative_to(out).as_posix(): p.read_bytes() for p in files}
    newest = max((out / "checkpoints").glob("step-*"), key=lambda p: (p.name[:15], not p.name.endswith("-open")))
    found |= {p.name: p.read_bytes() for p in newest.iterdir()}
    found["newest"] = newest.name
    assert {"curves.png", "model/confusion.png", "state.json", "tensors.safetensors"} <= found.keys()
    found["metrics"] = (out / "metrics.jsonl").read_bytes()
    found["report"] = json.loads((out / "report.json").read_text())
    golden = json.loads((out / "model" / "zoo.json").read_text())
    found["golden"] = golden.get("golden")
    assert len(files) > 0
    return found


class Halt(Exception):
    """Raised in the middle of training by a test."""


class HaltingReporter(Reporter):
    """Stops training after so many steps in all, as a crash would."""

    def __init__(self, after: int | None) -> None:
        self.left = after

    def step(self, step: int, epoch: int, loss: float, samples: int) -> None:
        """Count down."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Halt


def phase(*strategies: Strategy | tuple[StrategySpec, Strategy], **recipe) -> Phase:
    """A phase of strategies; each plain one gets a spec named after its class, in the role it has an attribute for."""
    parts = []
    for strategy in strategies:
        if isinstance(strategy, Strategy):
            name = type(strategy).__name__.lower()
            known = {"role": getattr(strategy, "role", "tuning"), "streams": getattr(strategy, "streams", ())}
            touches = getattr(strategy, "touches", {"backbone"})
            strategy = (
                StrategySpec(name=name, summary="of a test", factory="a:b", touches=frozenset(touches), **known),
                strategy,
            )
        parts.append(strategy)
    if not {"epochs", "steps"} & recipe.keys():
        recipe["epochs"] = 2
    values = {"rate": 1e-2, "decay": 0.01, "warmup": 0.1, "augment": "light", **recipe}
    names = tuple(Component(name=f"test/{spec.name}") for spec, _ in parts)
    return Phase(PhaseRecipe(strategies=names, **values), compose(parts))


def make_run(phases: list[Phase], data=None, backbone: str = "norm", device: str = "cpu", **options) -> TrainingRun:
    """A run on a fresh model; ``options`` of training, or ``max_bad``."""
    data = data if isinstance(data, Dataset) else open_data(tiny_zoo.drawn_splits() if data is None else data)
    where = torch.device(device)
    made = assemble_model(
        tiny_zoo.registry(), backbone=f"tiny/{backbone}", head="tiny/head", columns=data.columns,
        pretrained=False, device=where,
    )  # fmt: skip
    max_bad = options.pop("max_bad", 0.01)
    options = {"batch_size": 8, "checkpoint_every": 1e-9, **options}
    return TrainingRun(
        model=made.model, phases=phases, data=data, input=made.input, options=TrainOptions(**options), seed=3,
        device=where, max_bad=max_bad,
    )  # fmt: skip


def train_here(run: TrainingRun, folder: Path | None = None, halt: int | None = None) -> list[dict]:
    """Train in this process; the rows of the log. With ``halt`` it raises :class:`Halt` after so many steps."""
    log = MetricsLog(folder / "metrics.jsonl" if folder else None)
    checkpoints = CheckpointFolder(folder / "checkpoints") if folder else None
    with reproducible(threads=1):
        train(run, log=log, checkpoints=checkpoints, reporter=HaltingReporter(halt))
    return log.content


def same_bits(one, two) -> bool:
    """Whether two state dicts agree in names and in every bit."""
    return one.keys() == two.keys() and all(tensor_hash(one[n]) == tensor_hash(two[n]) for n in one)
