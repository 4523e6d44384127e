"""``TrainingRun``: the state of training, as strategies see it and as the checkpoint stores it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn
from zoo_registry import Column, DataError, Delta, Input, Losses, StrategySpec, UsageError
from zoo_registry import Run as RunProtocol
from zoo_registry import Strategy as StrategyBase

from zoo.assembly.memory import own_tensors
from zoo.assembly.model import TransferModel
from zoo.compute.computing import Computing
from zoo.compute.layout import place
from zoo.compute.path import ComputePath, path_of, settled
from zoo.data.bad import BadSamples
from zoo.data.dataset import Dataset, Split
from zoo.evaluation.predictions import Predictions, iterate_batches, predict_features, predict_split
from zoo.evaluation.report import main_score, report_columns
from zoo.features.bank import FeatureBank
from zoo.keys import generator, key
from zoo.recipe.recipe import PhaseRecipe, TrainOptions
from zoo.training.checkpoint import clone_state
from zoo.training.limits import Limits, fitting
from zoo.training.pipeline import Pipeline


@dataclass(frozen=True)
class Phase:
    """A resolved phase: its recipe and its strategies in calling order."""

    recipe: PhaseRecipe
    parts: list[tuple[StrategySpec, StrategyBase]]

    @property
    def strategies(self) -> list[StrategyBase]:
        """The strategies in calling order."""
        return [strategy for _, strategy in self.parts]

    @property
    def specs(self) -> list[StrategySpec]:
        """Their specs."""
        return [spec for spec, _ in self.parts]


@dataclass(eq=False)
class TrainingRun:
    """One run of training.

    Attributes:
        model: on its device; its weights are the base weights when the run is made.
        phases: in order.
        data: with the splits ``train`` and ``val``.
        options: of training.
        seed: of everything random.
        assembler: builds another model of the zoo by name.
        rebuild: builds this model anew with any weights; where it is None, a copy of ``model`` is kept from the start.
        base: the weights that the run started from, by name in the model's state dict.
        start: the weights at the phase's start.
        phase, epoch, step, micro: where training stands; ``step`` counts within the phase.
        total_steps, steps_per_epoch: of the phase, known before anybody's ``prepare``.
        bad: unreadable samples met so far.
        beat: called after every batch of an evaluation.
        limits: how many samples fit into memory at once, as far as it was found out.
        note: told what a person should know.
        rested: whether the last phase left the backbone alone, so that what it saw of ``val`` still holds.
        deltas: what the last phase changed, where a strategy has a small form of it; taken just before ``finish``.
    """

    model: TransferModel
    phases: list[Phase]
    data: Dataset
    input: Input
    options: TrainOptions
    seed: int
    device: torch.device
    max_bad: float = 0.01
    assembler: Callable[[str], TransferModel] | None = None
    rebuild: Callable[[], TransferModel] | None = None
    base: dict[str, Tensor] = field(default_factory=dict)
    start: dict[str, Tensor] = field(default_factory=dict)
    phase: int = 0
    epoch: int = 0
    step: int = 0
    micro: int = 0
    total_steps: int = 0
    steps_per_epoch: int = 0
    recompute: Callable[[], Losses] | None = None
    deltas: list[tuple[StrategySpec, Delta]] = field(default_factory=list)
    beat: Callable[[], None] | None = None
    limits: Limits = field(default_factory=Limits)
    note: Callable[[str], None] = lambda text: None
    rested: bool = False
    _reference: TransferModel | None = None

    def __post_init__(self) -> None:
        own_tensors(self.model)  # a run is long: nothing that happens to the weights file is to reach it
        self.pipeline = Pipeline(self.model.backbone, self.input, self.device)
        self.bad = BadSamples(sum(len(self.data.split(name)) for name in ("train", "val")), self.max_bad)
        self.path = path_of(self.options, self.device)
        self.dress(self.model)
        self.bank = self._open_bank()
        if not self.base:
            self.base = clone_state(self.model.state_dict())
        if self.rebuild is None:  # later the model may hold what a phase injected
            spare = copy.deepcopy(self.model)
            self.rebuild = lambda: spare

    def _open_bank(self) -> FeatureBank | None:
        """Where features come from; None where the recipe wants them computed each time."""
        options = self.options
        if options.features == "off":
            return None
        bank = FeatureBank(
            self.pipeline, self.data, self.bad, seed=self.seed, mode=options.features,
            limit=round(options.features_gb * 1e9), apart=options.views > 0,
            precision=options.features_precision, workers=lambda: self.workers,
        )  # fmt: skip
        bank.beat = self._progressed
        bank.note = lambda text: self.note(text)
        bank.fit = lambda work, size: fitting(work, self.limits, self.note, phase=self.phase, step=self.step, size=size)
        return bank

    def settle(self, path: ComputePath) -> None:
        """Take the compute path that was chosen, before the first phase."""
        self.options, self.path = settled(self.options, path), path
        self.dress(self.model)
        self.base = clone_state(self.model.state_dict())

    def dress(self, model: TransferModel) -> None:
        """Let a model compute as this run does: the layout of its kernels, and how its passes in a step run."""
        self.pipeline.memory_format = self.path.memory_format
        place(model, self.path.memory_format)
        model.computing = Computing(self.path, self.options.batch_size)

    @property
    def seen(self) -> RunProtocol:
        """This run as strategies see it."""
        return cast(RunProtocol, self)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The target columns."""
        return self.data.columns

    @property
    def train(self) -> Split:
        """The split ``train``."""
        return self.data.split("train")

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """Column -> targets of all training samples, on the CPU."""
        return self.train.targets

    @property
    def weights(self) -> Tensor | None:
        """Weights [N] of the training samples, on the CPU; None where the data brings none."""
        weights = self.train.weights
        return None if weights is None else torch.from_numpy(weights.copy())

    @property
    def strategies(self) -> tuple[str, ...]:
        """Full names of the strategies of the phase."""
        return tuple(component.name for component in self.phases[self.phase].recipe.strategies)

    @property
    def class_counts(self) -> dict[str, Tensor]:
        """Column -> training samples per class, in the order of the label map."""
        return {c.name: torch.tensor(list(self.train.class_counts(c.name).values())) for c in self.columns if c.classes}

    @property
    def workers(self) -> int:
        """Processes that load samples; none as long as nobody has chosen."""
        return self.options.workers if isinstance(self.options.workers, int) else 0

    def settle_workers(self, workers: int) -> None:
        """Load with so many processes from now on."""
        self.options = dataclasses.replace(self.options, workers=workers)

    def short_edge(self, views: Sequence[str], augment: str) -> int | None:
        """How small a large image may be decoded for these views under ``train.decode``; None: not at all."""
        return self.pipeline.short_edge(views, augment) if self.options.decode == "scaled" else None

    def generator(self, name: str) -> Generator:
        """A CPU generator keyed by (seed, phase, step, micro-batch, name)."""
        return generator(self.seed, self.phase, self.step, self.micro, name)

    def seed_model(self, *parts: object) -> None:
        """Seed torch's global generators, for what happens inside the model (dropout, stochastic depth)."""
        value = key(self.seed, self.phase, *parts)
        torch.default_generator.manual_seed(value)
        if self.device.type == "cuda":
            index = self.device.index
            torch.cuda.default_generators[torch.cuda.current_device() if index is None else index].manual_seed(value)
        elif self.device.type == "mps":
            torch.mps.manual_seed(value)

    def reference(self) -> TransferModel:
        """A frozen copy of the model with the base weights, in evaluation mode; made once."""
        if self._reference is None:
            assert self.rebuild is not None
            self._reference = self.rebuild()
            self.dress(self._reference)
            self._reference.load_state_dict(self.base)
            self._reference.requires_grad_(False).eval()
        return self._reference

    def assemble(self, name: str) -> TransferModel:
        """Another model of the zoo, on this run's device.

        Raises:
            UsageError: this run cannot assemble models.
        """
        if self.assembler is None:
            raise UsageError(f"this run cannot assemble {name!r}")
        model = self.assembler(name)
        self.dress(model)
        return model

    def backward(self) -> Losses:
        """Compute the step's gradients again, on the same batches with the same randomness and the weights as they
        are now; they replace those there were.
        """
        if self.recompute is None:
            raise RuntimeError("backward() is for before_step")
        return self.recompute()

    def extract(self, model: TransferModel, split: str = "train") -> tuple[Any, dict[str, Tensor]]:
        """Features of all readable samples under the evaluation view, and their targets, in data order.

        Returns:
            Features [N, D] (or of the head's kind) on the device, and column -> targets [N] there.
        """
        features, found = self.extract_rows(model, split)
        targets = {c: t[found].to(self.device) for c, t in self.data.split(split).targets.items()}
        return features, targets

    def extract_rows(self, model: TransferModel, split: str = "train") -> tuple[Any, list[int]]:
        """Features under the evaluation view, and the index of the sample each row belongs to.

        Raises:
            DataError: no sample can be read.
        """
        if self.bank is not None:
            return self.bank.exact(model.backbone, split).picked()
        predictions = self._predict(model, split, features=True)
        if predictions.features is None:
            raise DataError(f"none of the {len(self.data.split(split))} samples of {split} can be read")
        return predictions.features, predictions.indices

    def evaluate(self, model: TransferModel, features: tuple[Any, list[int]] | None = None) -> dict[str, float]:
        """Metrics on ``val``; ``features`` are cached ones of ``val``, with the indices of their samples."""
        split = self.data.split("val")
        mode = model.training
        model.eval()
        try:
            if features:
                found = predict_features(model, split, *features, batch_size=self.options.batch_size)
            else:
                found = self._predict(model, "val")
        finally:
            model.train(mode)
        return report_columns(self.columns, found, split).metrics

    def score(self, model: TransferModel, state: Mapping[str, Tensor] | None = None) -> float:
        """The main validation metric (higher is better) of the model, or of the model with ``state`` put in."""
        live = clone_state(model.state_dict()) if state is not None else None
        try:
            if live is not None:
                model.load_state_dict({**live, **(state or {})})
            return main_score(self.columns, self.evaluate(model))
        finally:
            if live is not None:
                model.load_state_dict(live)

    def recalibrate(self, model: TransferModel) -> None:
        """Recompute BatchNorm statistics as plain averages over ``train`` under the evaluation view.

        Those of frozen blocks rest: what they see has not changed.
        """
        norms = [
            module
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
            if not model.rests(module) and not name.startswith("auxiliary.")
        ]
        if not norms:
            return
        modes = {module: module.training for module in model.modules()}
        momenta = [norm.momentum for norm in norms]
        model.eval()
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True
            for loaded in iterate_batches(
                self.train, self.pipeline, batch_size=self.options.batch_size, workers=self.workers
            ):
                if len(loaded) > 1:  # BatchNorm cannot learn from one
                    with torch.no_grad():
                        model.predict(self.pipeline.feed(loaded.views["eval"]))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            for module, mode in modes.items():
                module.training = mode

    def unreached(self) -> list[str]:
        """Backbone parameters that no pass reaches even where everything learns: they can never get a gradient."""
        probe = self.reference()
        loaded = next(
            (b for b in iterate_batches(self.train, self.pipeline, batch_size=2) if b.ids), None
        )  # two samples are enough, whatever the modality
        if loaded is None:
            return []
        probe.requires_grad_(True)
        outputs = probe.predict(self.pipeline.feed(loaded.views["eval"]))
        torch.stack([o.float().square().sum() for o in outputs.values()]).sum().backward()
        names = [n for n, p in probe.named_parameters() if p.grad is None and n.startswith("backbone.")]
        probe.zero_grad(set_to_none=True)
        probe.requires_grad_(False)
        return names

    def _progressed(self, _: int) -> None:
        if self.beat is not None:
            self.beat()

    def _predict(self, model: TransferModel, split: str, *, features: bool = False) -> Predictions:
        """Every sample of the split, in smaller batches where memory does not suffice."""

        def work(size: int) -> Predictions:
            return predict_split(
                model,
                self.data.split(split),
                self.pipeline,
                batch_size=size,
                workers=self.workers,
                features_only=features,
                progress=self._progressed,
            )

        mode, size = model.training, self.options.batch_size
        model.eval()
        try:
            found = fitting(work, self.limits, self.note, phase=self.phase, step=self.step, size=size)
        finally:
            model.train(mode)
        self.bad.add(found.bad)
        return found

    def predict(self, split: str) -> Predictions:
        """What the model says of a split."""
        return self._predict(self.model, split)
