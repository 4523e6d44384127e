"""A model of the same shapes on the side, and a run on it that reads little and downloads nothing."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from zoo_registry import HubError, IntegrityError, Registry, ZooError

from zoo.assembly.assemble import Assembled
from zoo.assembly.model import TransferModel
from zoo.finetuning import assemble_recipe
from zoo.planning import Plan
from zoo.preview.memory import module_bytes
from zoo.teachers import Teachers
from zoo.training.rehearsal import RehearsalRun
from zoo.training.run import Phase


class NotHereError(ZooError):
    """Something that a run would get is not on this machine, so it cannot be measured."""


@dataclasses.dataclass(eq=False)
class PreviewRun(RehearsalRun):
    """A run that is asked by strategies in ``prepare`` and ``begin_epoch``, and by a few steps.

    Attributes:
        teacher_bytes: of the models that strategies had assembled.
    """

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


@dataclasses.dataclass
class ThrowAway:
    """The model that phases are planned on; every phase starts from a copy of it."""

    plan: Plan
    device: torch.device
    assembled: Assembled
    teachers: Teachers

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
        teachers = Teachers(registry, device, hub, offline=True, pinned=plan.recipe.teachers)
        return cls(plan, device, made, teachers)

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
            assembler=self.teachers,
            rebuild=lambda: copy.deepcopy(plain),
            base=weights,
            start=weights,
            phase=index,
        )
        run.bad.allowed = None
        return run
