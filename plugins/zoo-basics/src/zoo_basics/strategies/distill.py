"""Knowledge distillation: the outputs follow a teacher's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from zoo_registry import Batch, IntegrityError, Losses, Run, Strategy, StrategySpec, TransferModel

from zoo_basics.options.losses import DistillOptions
from zoo_basics.strategies.teachers import Adapter, Match, adapter, fingerprint, match_columns

TINY = 1e-30
"""Smallest probability of a teacher that is told from zero."""


class Distill(Strategy):
    """``alpha * T^2 * KL(p_T || q_T)``, averaged over samples and added up over columns, beside the supervised loss.

    Hinton et al., Distilling the Knowledge in a Neural Network, 2015 (arXiv 1503.02531). ``p_T`` and ``q_T`` are the
    teacher's and the model's probabilities at temperature ``T``: ``softmax(logits / T)``. Of a multilabel column it is
    the mean over classes of the divergence of two coins. Samples without a label count too, the teacher knows one.

    The teacher is a model of the zoo: a run, a bundle, or a name on a hub. Columns and classes are matched by name;
    classes that the teacher alone has are left out and its probabilities shared among the rest. It sees the very view
    that the model sees, brought to its own size and normalisation.

    Args:
        options: ``teacher``, ``alpha``, ``temperature``.
    """

    teacher: TransferModel
    columns: list[Match]
    adapter: Adapter

    def __init__(self, options: DistillOptions) -> None:
        self.name, self.alpha, self.temperature = options.teacher, options.alpha, options.temperature
        self._print: tuple[float, float] = (0.0, 0.0)

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Assemble the teacher.

        Raises:
            UsageError: it lacks classes, has no column of the model's, or wants inputs that cannot be made of the
                model's.
        """
        self.teacher = run.assemble(self.name)
        cast(nn.Module, self.teacher).requires_grad_(False).eval()
        self.columns = match_columns(self.name, run.columns, self.teacher.columns)
        self.adapter = adapter(self.name, model.input, self.teacher.input)
        self._print = fingerprint(cast(nn.Module, self.teacher))

    def penalty(self, model: TransferModel, batches: Mapping[str, Batch], run: Run) -> Losses:
        """A term for each matched column, under its name."""
        batch = batches["train"]
        view = next(iter(batch.views))
        seen = replace(batch, views={view: self.adapter(batch.views[view])}, passes={})
        with torch.no_grad():
            decoded = cast(Any, self.teacher.head).decode(self.teacher(seen, view).outputs)
        outputs = model(batch, view).outputs
        return {match.column.name: self._term(match, outputs, decoded, batch.weights) for match in self.columns}

    def _term(self, match: Match, outputs: Mapping[str, Tensor], decoded: Mapping[str, Tensor], weights: Any) -> Tensor:
        wanted = decoded[match.theirs].float()[:, match.order.to(decoded[match.theirs].device)]
        diverge = bernoulli_divergence if match.column.kind == "multilabel" else divergence
        each = diverge(outputs[match.column.name], wanted, self.temperature)
        return self.alpha * (each if weights is None else each * weights).mean()

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """The teacher, what it teaches, and how it sees."""
        names = ", ".join(match.column.name for match in self.columns)
        line = f"follows {self.name} in {names} (weight {self.alpha:g}, temperature {self.temperature:g})"
        return tuple(filter(None, (line, self.adapter.words, "one forward pass of the teacher a step")))

    def state_dict(self) -> dict[str, Any]:
        """What tells the teacher from another one."""
        return {"sum": self._print[0], "square": self._print[1]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that the teacher is still the same.

        Raises:
            IntegrityError: it is not.
        """
        before = (float(state["sum"]), float(state["square"]))
        if not all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(self._print, before, strict=True)):
            raise IntegrityError(
                f"the teacher {self.name!r} is not the one that this run began with",
                hint="put it back, or start a new run",
            )


def divergence(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """``T^2 * KL(p_T || q_T)`` for each sample.

    Args:
        logits: of the model, [B, C].
        wanted: the teacher's probabilities [B, C]; they are brought to sum 1.
        temperature: ``T``.
    """
    ours = (logits.float() / temperature).log_softmax(1)
    theirs = (wanted.clamp(min=TINY).log() / temperature).log_softmax(1)
    return temperature**2 * (theirs.exp() * (theirs - ours)).sum(1)


def bernoulli_divergence(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """``T^2 * KL`` of the labels' own probabilities, ``sigmoid(logits / T)``, averaged over classes: [B]."""
    ours = logits.float() / temperature
    theirs = wanted.clamp(1e-6, 1 - 1e-6).logit() / temperature
    share, log = theirs.sigmoid(), nn.functional.logsigmoid
    gaps = share * (log(theirs) - log(ours)) + (1 - share) * (log(-theirs) - log(-ours))
    return temperature**2 * gaps.mean(1)


def build(spec: StrategySpec, options: DistillOptions) -> Distill:
    """The strategy ``distill``."""
    return Distill(options)
