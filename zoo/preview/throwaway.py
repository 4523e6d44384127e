"""A model of the same shapes on the side, and a run on it that reads little and downloads nothing."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from zoo_registry import HubError, IntegrityError, Registry, ZooError

from zoo.assembly.assemble import Assembled
from zoo.assembly.model import TransferModel
from zoo.evaluation.predictions import Predictions
from zoo.finetuning import assemble_recipe
from zoo.planning import Plan
from zoo.preview.memory import module_bytes
from zoo.training.run import Phase, TrainingRun

SAMPLES = 32
"""Samples that a preview reads where a run would read a whole split for features."""


class NotHereError(ZooError):
    """Something that a run would get is not on this machine, so it cannot be measured."""


@dataclasses.dataclass(eq=False)
class PreviewRun(TrainingRun):
    """A run that is asked by strategies in ``prepare`` and ``begin_epoch``, and by a few steps.

    Attributes:
        passes: passes over a split that strategies asked for, samples in all.
        teacher_bytes: of the models that strategies had assembled.
    """

    passes: int = 0
    teacher_bytes: int = 0

    def assemble(self, name: str) -> TransferModel:
        """A teacher, if it is on this machine.

        Raises:
            NotHereError: it is not.
        """
        try:
            teacher = super().assemble(name)
        except (HubError, IntegrityError) as error:
            raise NotHereError(f"{name!r} is not on this machine ({error.message})") from error
        self.teacher_bytes += module_bytes(teacher)
        return teacher

    def _predict(self, model: TransferModel, split: str, *, features: bool = False) -> Predictions:
        """Of a few samples, spread evenly over the split."""
        whole = self.data.split(split)
        self.passes += len(whole)
        chosen = [i * len(whole) // min(SAMPLES, len(whole)) for i in range(min(SAMPLES, len(whole)))]
        splits = {**self.data.splits, split: whole.subset(chosen)}
        full, self.data = self.data, dataclasses.replace(self.data, splits=splits)
        try:
            found = super()._predict(model, split, features=features)
        finally:
            self.data = full
        if not found.indices:
            raise NotHereError(f"none of {len(chosen)} samples of {split} can be read")
        found.indices = [chosen[i] for i in found.indices]
        return found


@dataclasses.dataclass
class ThrowAway:
    """The model that phases are planned on; every phase starts from a copy of it."""

    plan: Plan
    registry: Registry
    device: torch.device
    assembled: Assembled
    hub: str | None = None

    @classmethod
    def build(cls, plan: Plan, registry: Registry, device: torch.device, hub: str | None) -> ThrowAway:
        """Assemble the recipe's model with random weights.

        Raises:
            HubError: it cannot be built without files that are not on this machine (a tokenizer's).
            ZooError: it cannot be built at all.
        """
        made = assemble_recipe(plan.recipe, plan.data, registry, device, hub=hub, offline=True, pretrained=False)
        prepare: Any = getattr(made.model.head, "prepare_targets", None)
        if prepare is not None:
            prepare(plan.data.split("train").targets)
        return cls(plan, registry, device, made, hub)

    def run(self, index: int, phases: list[Phase]) -> PreviewRun:
        """A run that stands before phase ``index``; samples are read in this process."""
        plain, recipe = self.assembled.model, self.plan.recipe
        weights = plain.state_dict()
        run = PreviewRun(
            model=copy.deepcopy(plain),
            phases=phases,
            data=self.plan.data,
            input=self.assembled.input,
            options=dataclasses.replace(recipe.train, workers=0),
            seed=recipe.seed,
            device=self.device,
            assembler=self._assemble,
            rebuild=lambda: copy.deepcopy(plain),
            base=weights,
            start=weights,
            phase=index,
        )
        run.bad.allowed = None
        return run

    def _assemble(self, name: str) -> TransferModel:
        from zoo.models import load_model

        return load_model(name, self.registry, device=self.device, hub=self.hub, offline=True).model
