"""Strategies for tests of the plan, each with one thing that a plan must show, and a tiny plan."""

from __future__ import annotations

import tiny_runs
import tiny_zoo
import torch
from torch import nn
from zoo_registry import Paper, ParameterGroup, Strategy, StrategySpec, UsageError

from zoo.planning import make_plan
from zoo.preview.preview import preview
from zoo.preview.report import BlockView, Preview


class Late(Strategy):
    """Block ``body`` learns from epoch 1 on, ``stem`` in epoch 2 alone."""

    def prepare(self, model, run):
        model.freeze()

    def begin_epoch(self, model, run):
        model.freeze()
        model.unfreeze(["body"] if run.epoch != 2 else ["stem", "body"] if run.epoch else [])
        if run.epoch == 0:
            model.freeze()


class Rates(Strategy):
    """The head at the full rate, the backbone at tenths of it, block by block."""

    def parameter_groups(self, model, rate):
        body = model.backbone
        return [
            ParameterGroup(params=list(body.stem.parameters()), rate=rate / 100),
            ParameterGroup(params=list(body.body.parameters()), rate=rate / 10, decay=0.5),
            ParameterGroup(params=list(model.head.parameters()), rate=rate),
        ]

    def explain(self, model, run):
        return (f"slow at the front, {run.total_steps} steps",)


class Inject(Strategy):
    """Wraps the stem's convolution and adds a discriminator."""

    def prepare(self, model, run):
        model.freeze()
        model.backbone.stem[0] = Wrapped(model.backbone.stem[0])
        model.auxiliary["judge"] = nn.Linear(8, 2)

    def penalty(self, model, batches, run):
        return {"judge": model.auxiliary["judge"](model(batches["train"]).features).square().mean()}

    def finish(self, model, run):
        model.backbone.stem[0] = model.backbone.stem[0].base_layer


class Wrapped(nn.Module):
    """A layer with a factor for each output."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer, self.factor = base_layer, nn.Parameter(torch.ones(6, 1, 1))

    def forward(self, x):
        return self.base_layer(x) * self.factor


class Taught(Strategy):
    """Needs a teacher that is on no machine."""

    def prepare(self, model, run):
        self.teacher = run.assemble("me/teacher")

    def penalty(self, model, batches, run):
        raise AssertionError("a strategy that is not prepared must not be asked")


class Impossible(Strategy):
    """The recipe is wrong, which shows in prepare."""

    def prepare(self, model, run):
        raise UsageError("strategy 'impossible': no such block", hint="take another")


class Counting(Strategy):
    """Counts what the steps call."""

    calls: list[str]

    def alter(self, batch, run):
        self.calls.append("alter")
        return batch

    def before_step(self, model, run):
        self.calls.append("before_step")
        run.backward()

    def after_step(self, model, run):
        self.calls.append("after_step")


CALLS: list[str] = []


def build(spec, options):
    """Factory of all of them."""
    made = {"late": Late, "rates": Rates, "inject": Inject, "taught": Taught, "impossible": Impossible}.get(spec.name)
    if made is not None:
        return made()
    counting = Counting()
    counting.calls = CALLS
    return counting


def spec(name: str, role: str, touches: tuple[str, ...] = ("backbone",)) -> StrategySpec:
    paper = Paper(title="Of a test", year=2000, link="https://example.org")
    return StrategySpec(
        name=name, summary="of a test", factory="plan_fakes:build", role=role, touches=frozenset(touches), paper=paper
    )


REGISTRY = tiny_zoo.registry(
    spec("late", "tuning"),
    spec("rates", "rates", ()),
    spec("inject", "tuning"),
    spec("taught", "penalty"),
    spec("impossible", "tuning"),
    spec("counting", "batch", ("loss",)),
)


def look(strategy: str, data=None, batches: int = 1, **more) -> Preview:
    """The preview of a tiny run."""
    plan = make_plan(tiny_runs.request(data, strategy, **more), REGISTRY)
    return preview(plan, REGISTRY, device="cpu", batches=batches)


def rows(found: Preview, phase: int = 0) -> dict[str, BlockView]:
    return {block.name: block for block in found.phases[phase].blocks}
