"""One cell of the table: one way to learn, on one draw of one task, with one starter; through the product itself.

The plan, the assembly and the training loop are the application's; only the run folder is left out, and what a model
is tested on may be several sets.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from tasks import Draw, draw
from ways import WAYS, Way
from zoo_registry import Registry

from zoo.assembly.model import TransferModel
from zoo.data.dataset import Dataset, Split
from zoo.determinism import reproducible
from zoo.evaluation.predictions import predict_features, predict_split
from zoo.evaluation.report import Report, report_columns
from zoo.finetuning import assemble_recipe, build_phases
from zoo.planning import Plan, Request, make_plan
from zoo.recipe import Recipe
from zoo.training.log import MetricsLog
from zoo.training.loop import train
from zoo.training.progress import Reporter
from zoo.training.run import TrainingRun

BATCH = 16
SETTINGS = (f"train.batch_size={BATCH}", "train.keep=last", "train.evaluate_every=1000000", "train.augment=none")
"""The last weights count, not the best on ``val``: it holds more labels than ``train``."""

Row = dict[str, Any]


@cache
def registry() -> Registry:
    """What is installed."""
    return Registry()


def plan(task: str, way: Way, starter: str, seed: int, *, steps: int, settings: tuple[str, ...] = ()) -> Plan:
    """The resolved recipe with its data, see :func:`run_cell`."""
    splits = dict(draw(task, seed).splits)
    request = Request(
        data=splits,
        backbone=f"starter/{starter}",
        head=way.head,
        strategy=way.expression(steps),
        settings=(*SETTINGS, *way.settings_for(starter, splits["train"].targets), *settings),
        seed=seed,
        pretrained=way.pretrained,
    )
    return make_plan(request, registry())


def resolved(recipe: Recipe) -> Row:
    """What decides a cell's result, as JSON values: phases with options and rates, head, weights or none."""
    phases = [dataclasses.asdict(phase) for phase in recipe.phases]
    return {"head": dataclasses.asdict(recipe.head), "pretrained": recipe.pretrained, "phases": phases,
            "batch": recipe.train.batch_size}  # fmt: skip


def resolved_digest(recipe: Recipe) -> str:
    """A short name of :func:`resolved`: a row measured with another recipe is not this cell's."""
    return hashlib.sha256(json.dumps(resolved(recipe), sort_keys=True).encode()).hexdigest()[:10]


class Count(Reporter):
    """Counts the steps, and the parameters that learn at the start or the end of an epoch, where that is most."""

    def __init__(self) -> None:
        self.run: TrainingRun | None = None
        self.trainable = 0
        self.steps = 0

    def begin_phase(self, index: int, count: int, label: str, total_steps: int) -> None:
        """Strategies have been prepared."""
        self.steps += total_steps
        if total_steps:
            self._look()

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Some strategies unfreeze as they go."""
        self._look()

    def _look(self) -> None:
        assert self.run is not None
        self.trainable = max(self.trainable, sum(p.numel() for p in self.run.model.parameters() if p.requires_grad))


def run_cell(
    task: str, way: Way, starter: str, seed: int, *, steps: int, settings: tuple[str, ...] = (),
    tests: tuple[str, ...] = ("val", "test"), rates: Mapping[int, float] | None = None,
) -> Row:  # fmt: skip
    """Train and test once, on one CPU thread.

    Args:
        task: of :data:`tasks.TASKS`.
        way: how to learn.
        starter: ``cnn`` or ``vit``.
        seed: draws the training images and whatever else is random.
        steps: optimiser steps of all phases together, times ``way.longer``.
        settings: more ``KEY=VALUE`` texts, for tuning.
        tests: splits to evaluate; ``test`` comes with the task's shifted tests.
        rates: phase (from 0) -> peak rate in place of the default, for tuning.

    Returns:
        JSON values; metrics by split, trainable parameters, steps, seconds of training and of everything.
    """
    began = time.monotonic()
    made = plan(task, way, starter, seed, steps=steps, settings=settings)
    recipe, data = made.recipe, made.data
    if rates:
        phases = [dataclasses.replace(p, rate=rates.get(i, p.rate)) for i, p in enumerate(recipe.phases)]
        recipe = dataclasses.replace(recipe, phases=tuple(phases))
    count = Count()
    with reproducible(threads=1):
        run = _make_run(recipe, data, lambda name: _teacher(name, task, starter, seed, steps))
        count.run = run
        start = time.monotonic()
        train(run, log=MetricsLog(), checkpoints=None, reporter=count)
        seconds = time.monotonic() - start
        scores = _evaluate(run, recipe, draw(task, seed), tests, (task, starter))
    return {
        "task": task, "way": way.name, "starter": starter, "seed": seed, "recipe": resolved_digest(recipe), **scores,
        "trainable": count.trainable, "steps": count.steps, "seconds": round(seconds, 2),
        "all_seconds": round(time.monotonic() - began, 2),
    }  # fmt: skip


def _teacher(name: str, task: str, starter: str, seed: int, steps: int) -> TransferModel:
    """The row ``name`` on the same draw, trained here: what a person would name a run folder for."""
    made = plan(task, WAYS[name], starter, seed, steps=steps)
    run = _make_run(made.recipe, made.data, None)
    train(run, log=MetricsLog(), checkpoints=None, reporter=Reporter())
    return run.model


def _make_run(recipe: Recipe, data: Dataset, teachers: Callable[[str], TransferModel] | None) -> TrainingRun:
    device = torch.device("cpu")
    phases = build_phases(recipe, registry())
    assembled = assemble_recipe(recipe, data, registry(), device)
    return TrainingRun(
        model=assembled.model, phases=phases, data=data, input=assembled.input, options=recipe.train,
        seed=recipe.seed, device=device, assembler=teachers,
    )  # fmt: skip


def _evaluate(run: TrainingRun, recipe: Recipe, drawn: Draw, tests: tuple[str, ...], where: tuple[Any, ...]) -> Row:
    run.model.eval()
    # A backbone that never moved gives equal features for every seed and head: computed once a process.
    specs = [spec for phase in run.phases for spec in phase.specs]
    still = recipe.pretrained and not any(spec.touches & {"backbone", "input"} for spec in specs)
    out: Row = {}
    for name in tests:
        split = run.data.split(name)
        out[name] = _metrics(_report(run, split, (*where, name) if still else None))
        if name == "test" and drawn.shifted:
            shifts = {}
            for shift, images in drawn.shifted.items():
                shifted = _in_place(split, images)
                report = _report(run, shifted, (*where, shift) if still else None)
                shifts[shift] = round(report.metrics["accuracy"], 4)
            out["shifts"] = shifts
    return out


_features: dict[tuple[Any, ...], tuple[Any, list[int]]] = {}


def _report(run: TrainingRun, split: Split, cached: tuple[Any, ...] | None) -> Report:
    if cached is None:
        return report_columns(run.columns, predict_split(run.model, split, run.pipeline), split)
    if cached not in _features:
        found = predict_split(run.model, split, run.pipeline, features_only=True)
        _features[cached] = found.features, found.indices
    return report_columns(run.columns, predict_features(run.model, split, *_features[cached]), split)


def _in_place(split: Split, images: np.ndarray) -> Split:
    """The first samples of a split, with other images."""
    head = split.subset(range(len(images)))
    return dataclasses.replace(head, sources=list(images), _cache={}, _cached=0)


def _metrics(report: Report) -> Row:
    rows = next(iter(report.columns.values())).per_class
    worst = min(row["recall"] for row in rows if row["support"])
    metrics = {name: report.metrics[name] for name in ("accuracy", "macro_f1", "nll")} | {"worst": worst}
    return {name: round(float(value), 4) for name, value in metrics.items()}
