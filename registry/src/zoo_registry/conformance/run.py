"""The kit's own run: one flat loop of a few steps that knows the contract and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo_registry.conformance.model import COLUMNS, ReferenceModel, snapshot
from zoo_registry.conformance.samples import COUNT, generator, images, to_bytes, to_floats, view_transform
from zoo_registry.specs import StrategySpec, Stream
from zoo_registry.strategy import Batch, Losses, ParameterGroup, Strategy, compose, merge_streams, overrides

BATCH = 8
STEPS_PER_EPOCH = COUNT // BATCH
RATE = 3e-3

Part = tuple[StrategySpec, Strategy]


@dataclass
class ReferenceRun:
    """A :class:`~zoo_registry.strategy.Run` on drawn samples."""

    model: ReferenceModel
    total_steps: int = 0
    steps_per_epoch: int = STEPS_PER_EPOCH
    seed: int = 0
    step: int = 0
    epoch: int = 0
    device: Any = "cpu"
    columns: tuple[Any, ...] = COLUMNS
    base: Mapping[str, Tensor] = field(default_factory=dict)
    start: Mapping[str, Tensor] = field(default_factory=dict)
    again: Callable[[], Losses] | None = None

    def __post_init__(self) -> None:
        self.inputs, labels = images("train")
        self.targets: Mapping[str, Tensor] = {"label": labels}
        self.class_counts: Mapping[str, Tensor] = {"label": torch.bincount(labels, minlength=3)}
        self.weights: Tensor | None = None
        self.strategies: tuple[str, ...] = ()
        self._reference: ReferenceModel | None = None
        self.recalibrate(self.model)
        self.base, self.start = snapshot(self.model), snapshot(self.model)

    def generator(self, name: str) -> torch.Generator:
        """Keyed by step and name."""
        return generator(self.seed, self.step, name)

    def reference(self) -> ReferenceModel:
        """A frozen copy of the model as it was before training."""
        if self._reference is None:
            self._reference = ReferenceModel()
            self._reference.load_state_dict(self.base)
            self._reference.requires_grad_(False).eval()
        return self._reference

    def assemble(self, name: str) -> ReferenceModel:
        """A teacher: fitted on the samples, drawn from another seed, whatever its name."""
        teacher = ReferenceModel(seed=1)
        teacher.requires_grad_(False).eval()
        teacher.head.fit(*self.extract(teacher))
        return teacher

    def extract(self, model: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Features [24, 16] and targets."""
        with evaluating(model), torch.no_grad():
            return model.backbone(self.inputs), dict(self.targets)

    def recalibrate(self, model: Any) -> None:
        """BatchNorm statistics of the evaluation views."""
        norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        with evaluating(model), torch.no_grad():
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True
            model.backbone(self.inputs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def score(self, model: Any, state: Mapping[str, Tensor] | None = None) -> float:
        """Accuracy on the samples, of the model or with ``state`` put in."""
        live = snapshot(model)
        if state is not None:
            model.load_state_dict({**live, **state})
        features, targets = self.extract(model)
        with evaluating(model), torch.no_grad():
            decoded = model.head.decode(model.head(features))["label"]
        model.load_state_dict(live)
        return float((decoded.argmax(1) == targets["label"]).float().mean())

    def loss(self, model: Any) -> float:
        """The supervised loss of the evaluation views."""
        with evaluating(model), torch.no_grad():
            return float(model.supervised(Batch({"eval": self.inputs}, dict(self.targets), ids=range(COUNT))))

    def backward(self) -> Losses:
        """Gradients of this step once more."""
        if self.again is None:
            raise RuntimeError("backward() is for before_step")
        return self.again()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass
class Phase:
    """A phase under way, and what was seen of it.

    Attributes:
        prepared: the state after ``prepare``; moved: names that could move since; reached: names that got a gradient.
        injected: parameter names that ``prepare`` added.
    """

    model: ReferenceModel
    run: ReferenceRun
    parts: list[Part]
    plain: set[str]
    groups: list[ParameterGroup] = field(default_factory=list)
    optimiser: torch.optim.Optimizer | None = None
    prepared: dict[str, Tensor] = field(default_factory=dict)
    injected: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)
    reached: set[str] = field(default_factory=set)
    cache: Tensor | None = None

    @property
    def strategies(self) -> list[Strategy]:
        """In calling order."""
        return [strategy for _, strategy in self.parts]

    def owner(self, method: str) -> Strategy | None:
        """The strategy that brings ``method``."""
        return next((strategy for strategy in self.strategies if overrides(strategy, method)), None)


def begin(parts: Sequence[Part], *, steps: int, cached: bool = False) -> Phase:
    """Prepare a phase on a fresh model: ``prepare``, groups, optimiser."""
    model = ReferenceModel()
    run = ReferenceRun(model, total_steps=steps)
    phase = Phase(model, run, compose(parts), plain=set(model.state_dict()))
    before = {name for name, _ in model.named_parameters()}
    model.train()
    torch.default_generator.manual_seed(1)
    for strategy in phase.strategies:
        strategy.prepare(model, run)
    model.taps = tuple(tap for strategy in phase.strategies for tap in strategy.taps)
    phase.injected = {name for name, _ in model.named_parameters()} - before
    phase.groups = _groups(phase)
    filled = [group for group in phase.groups if group["params"]]
    settings = [{"params": g["params"], "lr": g["rate"], "weight_decay": g.get("decay", 0.01)} for g in filled]
    phase.optimiser = torch.optim.AdamW(settings) if settings and steps else None
    phase.prepared = snapshot(model)
    if cached:
        phase.cache = run.extract(model)[0]
    return phase


def _groups(phase: Phase) -> list[ParameterGroup]:
    owner = phase.owner("parameter_groups")
    model = phase.model
    if owner is not None:
        groups = list(owner.parameter_groups(phase.model, RATE))
    else:
        parameters = [*model.backbone.parameters(), *model.head.parameters()]
        groups = [{"params": parameters, "rate": RATE, "decay": 0.01}]
    claimed = {id(parameter) for group in groups for parameter in group["params"]}
    rest = [p for p in model.auxiliary.parameters() if id(p) not in claimed]
    return [*groups, {"params": rest, "rate": RATE, "decay": 0.01}]


def advance(phase: Phase, *, until: int) -> None:
    """Train up to step ``until``."""
    run, model, optimiser = phase.run, phase.model, phase.optimiser
    streams = merge_streams([spec for spec, _ in phase.parts])
    while run.step < until and optimiser is not None:
        run.epoch = run.step // STEPS_PER_EPOCH
        if run.step % STEPS_PER_EPOCH == 0:
            begin_epoch(phase)
        phase.moved |= _movable(model)
        run.again = lambda: _backward(phase, streams)
        run.again()
        phase.reached |= {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        for strategy in phase.strategies:
            strategy.before_step(model, run)
        share = 0.5 * (1 + math.cos(math.pi * run.step / run.total_steps))
        for group, settings in zip([g for g in phase.groups if g["params"]], optimiser.param_groups, strict=True):
            settings["lr"] = group["rate"] * share
        optimiser.step()
        for strategy in phase.strategies:
            strategy.after_step(model, run)
        optimiser.zero_grad(set_to_none=True)
        run.step += 1


def begin_epoch(phase: Phase) -> None:
    """Tell everybody that an epoch starts, or goes on after a resume."""
    for strategy in phase.strategies:
        strategy.begin_epoch(phase.model, phase.run)
    phase.model.train()


def _movable(model: nn.Module) -> set[str]:
    """Names of what may change: trainable parameters, and buffers of modules in training mode."""
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for prefix, module in model.named_modules():
        if module.training:
            names |= {f"{prefix}.{name}" if prefix else name for name, _ in module.named_buffers(recurse=False)}
    return names


def _backward(phase: Phase, streams: Mapping[str, Stream]) -> Losses:
    run, model = phase.run, phase.model
    model.zero_grad(set_to_none=True)  # asked for again, gradients are replaced, as in the application
    torch.default_generator.manual_seed(run.step + 100)
    batches = {name: _batch(phase, stream) for name, stream in streams.items()}
    for strategy in phase.strategies:
        batches["train"] = strategy.alter(batches["train"], run)
    owner = phase.owner("objective")
    losses = (
        {"supervised": model.supervised(batches["train"])} if owner is None else owner.objective(model, batches, run)
    )
    for spec, strategy in phase.parts:
        losses |= {f"{spec.name}.{name}": value for name, value in strategy.penalty(model, batches, run).items()}
    for name, value in losses.items():
        if not bool(torch.isfinite(torch.as_tensor(value)).all()):
            raise AssertionError(f"the loss {name!r} is {value} at step {run.step}")
    total = torch.stack([torch.as_tensor(value) for value in losses.values()]).sum()
    total.backward()
    return losses


def _batch(phase: Phase, stream: Stream) -> Batch:
    run, size = phase.run, BATCH * stream.ratio
    samples, labels = images(stream.name)
    if stream.name == "train":
        order = _order(phase)
        within = run.step % STEPS_PER_EPOCH
        ids = order[within * size : (within + 1) * size]
    else:
        order = torch.randperm(COUNT, generator=generator(stream.name))
        ids = order[(run.step * size + torch.arange(size)) % COUNT]
    targets = None if stream.name == "unlabelled" else {"label": labels[ids]}
    if stream.name == "train" and phase.cache is not None:
        return Batch({}, targets, ids=ids.tolist(), features=phase.cache[ids])
    views = {view: _view(phase, stream.name, view, samples[ids]) for view in stream.views}
    return Batch(views, targets, ids=ids.tolist())


def _order(phase: Phase) -> Tensor:
    run, owner = phase.run, phase.owner("sample_weights")
    draw = generator(run.seed, run.epoch, "order")
    if owner is None:
        return torch.randperm(COUNT, generator=draw)
    weights = owner.sample_weights(run.targets, run)
    return torch.multinomial(weights.double(), COUNT, replacement=True, generator=draw)


def _view(phase: Phase, stream: str, view: str, samples: Tensor) -> Tensor:
    transform = view_transform(view)
    for strategy in phase.strategies:
        transform = strategy.augment(transform, stream, view)
    draws = [generator(phase.run.seed, phase.run.step, stream, view, i) for i in range(len(samples))]
    return to_floats(torch.stack([transform(s, draw) for s, draw in zip(to_bytes(samples), draws, strict=True)]))


def end(phase: Phase) -> None:
    """Evaluation weights, ``finish``, and away with the scaffolding."""
    model, owner = phase.model, phase.owner("evaluation_weights")
    weights = owner.evaluation_weights(model) if owner is not None else None
    if weights is not None:
        model.load_state_dict({**model.state_dict(), **weights})
    for strategy in phase.strategies:
        strategy.finish(model, phase.run)
    model.auxiliary.clear()
    model.taps = ()


def checkpoint(phase: Phase) -> dict[str, Any]:
    """What an exact resume needs."""
    assert phase.optimiser is not None
    return {
        "step": phase.run.step,
        "model": snapshot(phase.model),
        "optimiser": phase.optimiser.state_dict(),
        "strategies": [copied(strategy.state_dict()) for strategy in phase.strategies],
    }


def copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """A strategy's state, cut off from the strategy."""
    return {name: v.detach().clone() if isinstance(v, Tensor) else v for name, v in state.items()}


def resume(phase: Phase, saved: Mapping[str, Any]) -> None:
    """Bring a freshly begun phase to where ``checkpoint`` was taken."""
    assert phase.optimiser is not None
    phase.run.step = saved["step"]
    phase.run.epoch = saved["step"] // STEPS_PER_EPOCH
    begin_epoch(phase)
    phase.model.load_state_dict(saved["model"])
    phase.optimiser.load_state_dict(saved["optimiser"])
    for strategy, state in zip(phase.strategies, saved["strategies"], strict=True):
        strategy.load_state_dict(state)
    phase.model.train()
