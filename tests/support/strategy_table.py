"""Every registered strategy as a case to try: an expression on a small network, trained by the product's own loop.

The strategies come from the registry, so that one which a plugin adds is tried without a word here. What one needs
beside its defaults (a head, a teacher, an architecture) is derived from its spec, or stands in :data:`OPTIONS`.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_runs import Halt
from torch import Tensor
from zoo_registry import Entry, Registry, StrategySpec

from zoo.assembly.assemble import Assembled
from zoo.bundle.write import Findings, write_bundle
from zoo.determinism import reproducible
from zoo.finetuning import assemble_recipe, build_phases
from zoo.planning import Plan, Request, make_plan
from zoo.training.checkpoint import CheckpointFolder, clone_state
from zoo.training.guard import tensor_hash
from zoo.training.log import MetricsLog
from zoo.training.loop import train
from zoo.training.progress import Reporter
from zoo.training.run import TrainingRun

ARCHITECTURES = {"cnn": "timm/test_efficientnet", "convnet": "timm/test_convnext", "vit": "timm/test_vit"}
"""A CNN with BatchNorm, a ConvNet with LayerNorm, a vision transformer."""

SIZE = 32
EPOCHS = 8
TRAINING = ("train.batch_size=13", "train.threads=1", "train.warmup=0", "train.lr=3e-3")

OPTIONS: dict[str, dict[str, str]] = {
    "basics/distill": {"teacher": "{teacher}"},
    "basics/weighted": {"classes": "blue=3"},
}
"""Strategy -> option -> value, where the spec's example names what is not here (a class, a teacher's bundle)."""

EXCLUDED: dict[str, str] = {}
"""Strategy -> why it cannot be tried here."""


class Shades:
    """Images that are bright in the channel of their class; a map-style dataset, more of one class than of another."""

    classes = ("red", "green", "blue")

    def __init__(self, counts: tuple[int, ...], seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.targets = [label for label, count in enumerate(counts) for _ in range(count)]
        self.images = draw.integers(0, 120, (len(self.targets), SIZE, SIZE, 3)).astype(np.uint8)
        for image, label in zip(self.images, self.targets, strict=True):
            image[..., label] += 100

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], self.targets[index]


@dataclass(frozen=True)
class Case:
    """A recipe on an architecture.

    Attributes:
        expression: as after ``--strategy``; lengths may be left out.
        architecture: of :data:`ARCHITECTURES`.
        parts: the full names of its strategies.
        settings: ``KEY=VALUE`` texts.
    """

    expression: str
    architecture: str
    parts: tuple[str, ...]
    settings: tuple[str, ...] = ()

    def __str__(self) -> str:
        short = "+".join(part.rpartition("/")[2] for part in self.expression.split("+"))
        return f"{short}-{self.architecture}"


@lru_cache(maxsize=1)
def registry() -> Registry:
    """The installed plugins."""
    return Registry()


def strategies(*roles: str) -> list[Entry[StrategySpec]]:
    """The strategies that can be tried, of these roles or of all."""
    found = registry().entries("strategy")
    return [e for e in found if e.name not in EXCLUDED and (not roles or e.spec.role in roles)]


def missing(names: tuple[str, ...], architecture: str) -> list[str]:
    """Capabilities that the strategies need and the architecture lacks."""
    has = registry().backbone(ARCHITECTURES[architecture]).spec.capabilities
    return sorted({need for name in names for need in registry().strategy(name).spec.needs - has})


def recipes() -> Iterator[Case]:
    """Every named recipe on every architecture."""
    for entry in registry().entries("recipe"):
        for architecture in ARCHITECTURES:
            parts = dict.fromkeys(name for phase in entry.spec.phases for name in phase.strategies)
            yield Case(entry.name, architecture, tuple(parts))


def alone() -> Iterator[Case]:
    """Every strategy by itself on every architecture."""
    for entry in strategies():
        for architecture in ARCHITECTURES:
            yield Case(entry.name, architecture, (entry.name,))


def together() -> Iterator[Case]:
    """Every tuning (and rates) strategy with a penalty, a batch and an averaging one, which take turns.

    On the CNN, or where that lacks what they need, on the first architecture that has it.
    """
    others = [strategies("penalty"), strategies("batch"), strategies("averaging")]
    for turn, entry in enumerate(strategies("tuning", "rates")):
        if not entry.spec.gradient:
            continue  # it takes no steps, so there is nothing to add to
        parts = (entry.name, *(entries[turn % len(entries)].name for entries in others if entries))
        able = [a for a in ARCHITECTURES if not missing(parts, a)]
        yield Case("+".join(parts), able[0], parts)


@dataclass
class Attempt:
    """A case made ready: fresh objects, as in a process of its own.

    Attributes:
        run: the run, its model with the base weights.
        rows: what training logged, once trained.
    """

    run: TrainingRun
    assembled: Assembled
    plan: Plan
    rows: list[dict[str, Any]] = field(default_factory=list)


def plan_case(case: Case, teacher: Path | None = None) -> Plan:
    """The resolved recipe of a case, as the command line would make it.

    Raises:
        UsageError: the architecture lacks what a strategy needs.
    """
    settings = [f"strategy.{part}.{key}={value}" for part in case.parts for key, value in options(part, teacher)]
    plan = make_plan(
        Request(
            data={"train": Shades((14, 8, 4), 0), "val": Shades((8, 8, 8), 1)},
            backbone=ARCHITECTURES[case.architecture], head=head_for(case), strategy=case.expression,
            settings=(*settings, *TRAINING, *case.settings),
            pretrained=False, image_size=SIZE, seed=5,
        ),
        registry(),
    )  # fmt: skip
    phases = [dataclasses.replace(phase, epochs=EPOCHS if phase.epochs else None) for phase in plan.recipe.phases]
    return dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, phases=tuple(phases)))


def head_for(case: Case) -> str | None:
    """A head with the methods that the case's strategies need; None: the plain one, or the one that a recipe brings."""
    named = [entry for entry in strategies() if entry.name == case.expression]
    return "basics/prototype" if any(entry.spec.head_needs == {"fit"} for entry in named) else None


def options(name: str, teacher: Path | None) -> list[tuple[str, str]]:
    """What a strategy must be told beside its defaults."""
    values: Mapping[str, Any] = OPTIONS.get(name) or registry().strategy(name).spec.example
    texts = {k: ",".join(map(str, v)) if isinstance(v, tuple | list) else str(v) for k, v in values.items()}
    return [(key, text.replace("{teacher}", str(teacher))) for key, text in texts.items()]


def prepare(case: Case, teacher: Path | None = None) -> Attempt:
    """Plan and build a case; torch's, numpy's and Python's own random numbers are spoilt, for nothing may use them."""
    for spoil in (torch.manual_seed, np.random.seed, random.seed):
        spoil(random.SystemRandom().randrange(2**31))
    plan = plan_case(case, teacher)
    device = torch.device("cpu")
    assembled = assemble_recipe(plan.recipe, plan.data, registry(), device)

    def load(name: str) -> Any:
        from zoo.models import load_model

        return load_model(name, registry()).model

    run = TrainingRun(
        model=assembled.model, phases=build_phases(plan.recipe, registry()), data=plan.data, input=assembled.input,
        options=plan.recipe.train, seed=plan.recipe.seed, device=device, assembler=load,
        rebuild=lambda: assemble_recipe(plan.recipe, plan.data, registry(), device, pretrained=False).model,
    )  # fmt: skip
    run.options = dataclasses.replace(run.options, checkpoint_every=0.0)
    run.recalibrate(run.model)  # random BatchNorm statistics would let nothing through
    run.base = clone_state(run.model.state_dict())
    return Attempt(run, assembled, plan)


@dataclass
class Seen:
    """What happened in a phase.

    Attributes:
        start: every tensor once the phase was prepared; ``end``: after its last step, before anything was merged.
        owners: name of every tensor -> the name of the class of the module that it belongs to.
        trainable: names of parameters that could learn in any step.
        following: names of buffers whose module was in training mode in any step.
    """

    start: dict[str, Tensor]
    end: dict[str, Tensor]
    owners: dict[str, str]
    trainable: set[str] = field(default_factory=set)
    following: set[str] = field(default_factory=set)

    @property
    def frozen(self) -> list[str]:
        """Names of the tensors of backbone and head that nothing allowed to move."""
        free = self.trainable | self.following
        return [name for name in self.start if name not in free and not name.startswith("auxiliary.")]

    def changed(self, names: Iterable[str]) -> list[str]:
        """Those of the tensors that are not what they were, in any bit."""
        return [name for name in names if tensor_hash(self.start[name]) != tensor_hash(self.end[name])]


def train_loss(run: TrainingRun) -> float:
    """The model's loss on the training samples as evaluation sees them."""
    run.model.eval()
    features, targets = run.extract(run.model)
    with torch.no_grad():
        return float(run.model.loss(run.model.head(features), targets))


class Watcher(Reporter):
    """Sees what may learn and what moves, apart from the loop's own guard.

    Args:
        run: the run.
        halt: raise :class:`Halt` after so many steps, as a crash would; the step before leaves a checkpoint.

    Attributes:
        phases: one for each phase so far.
        steps: losses of the steps.
    """

    def __init__(self, run: TrainingRun, halt: int | None = None) -> None:
        self.run, self.halt = run, halt
        self.phases: list[Seen] = []
        self.steps: list[float] = []
        run.model.register_forward_pre_hook(lambda *_: self._look())

    def begin_phase(self, index: int, count: int, label: str, total_steps: int) -> None:
        """Keep what the phase starts from."""
        state = clone_state(self.run.model.state_dict())
        modules = dict(self.run.model.named_modules())
        owners = {name: type(modules.get(name.rpartition(".")[0])).__name__ for name in state}
        self.phases.append(Seen(state, state, owners))

    def _look(self) -> None:
        if not self.run.model.training or not torch.is_grad_enabled():
            return
        seen = self.phases[-1]
        seen.trainable |= {n for n, p in self.run.model.named_parameters() if p.requires_grad}
        for prefix, module in self.run.model.named_modules():
            if module.training:
                seen.following |= {f"{prefix}.{n}" for n, _ in module.named_buffers(recurse=False)}

    def step(self, step: int, epoch: int, loss: float, samples: int) -> None:
        """Keep the tensors as they are after the last step."""
        self.steps.append(loss)
        if self.halt is not None and len(self.steps) == self.halt - 1:
            self.run.options = dataclasses.replace(self.run.options, checkpoint_every=1e-9)
        if self.halt is not None and len(self.steps) >= self.halt:
            raise Halt
        if step == self.run.total_steps:
            self.phases[-1].end = clone_state(self.run.model.state_dict())


def train_attempt(attempt: Attempt, folder: Path | None = None, halt: int | None = None) -> Watcher:
    """Train it, or go on where ``folder`` has a checkpoint.

    Raises:
        Halt: after ``halt`` steps.
    """
    log = MetricsLog(folder / "metrics.jsonl" if folder else None)
    watcher = Watcher(attempt.run, halt)
    with reproducible(threads=1):
        train(
            attempt.run,
            log=log,
            checkpoints=CheckpointFolder(folder / "checkpoints") if folder else None,
            reporter=watcher,
        )
    attempt.rows = log.content
    return watcher


def write_teacher(folder: Path) -> Path:
    """A trained bundle of the classes of the data, for strategies that need another model."""
    attempt = prepare(Case("basics/linear", "cnn", ("basics/linear",)))
    train_attempt(attempt)
    write_bundle(folder, attempt.assembled, attempt.plan.recipe, Findings(), registry())
    return folder
