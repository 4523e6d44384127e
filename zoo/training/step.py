"""One optimiser step: losses of every micro-batch, backward, the strategies' points, the update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from zoo_registry import Batch, Losses, RunStoppedError, ZooError
from zoo_registry.strategy import overrides

from zoo.training.groups import make_optimiser, phase_groups
from zoo.training.guard import Guard
from zoo.training.run import Phase, TrainingRun
from zoo.training.schedule import rate_factor

if TYPE_CHECKING:
    from zoo_registry import Strategy


@dataclass(frozen=True)
class StepResult:
    """What a step came to: losses by name, averaged over its samples; their sum; how many samples it took.

    ``norm`` is the norm of all gradients before clipping, 0 where nothing moved.
    """

    losses: dict[str, float]
    loss: float
    samples: int
    norm: float = 0.0


class Stepper:
    """Takes the optimiser steps of one phase.

    Args:
        run: its model is prepared for the phase.
        phase: the phase.
        guard: told of gradients.

    Attributes:
        groups: the parameter groups, with their peak rates.
        optimiser: AdamW, None where there is no parameter at all.
        grouped: ids of the parameters that lie in a group.
    """

    def __init__(self, run: TrainingRun, phase: Phase, guard: Guard) -> None:
        self.run, self.phase, self.guard = run, phase, guard
        self.model: Any = run.model
        self.strategies: list[Strategy] = phase.strategies
        self.groups = phase_groups(run.model, phase)
        self.optimiser = make_optimiser(self.groups, fused=run.path.fused)
        self.grouped = {id(p) for group in self.groups for p in group["params"]}
        self._objective = next((s for s in self.strategies if overrides(s, "objective")), None)

    def take(self, batches: Sequence[Mapping[str, Batch]]) -> StepResult:
        """Take the step ``run.step``.

        Args:
            batches: stream -> batch, for each micro-batch; those without a readable ``train`` sample are left out.

        Raises:
            RunStoppedError: loss or gradient is not finite; the weights have not moved.
        """
        run, seen = self.run, self.run.seen
        batches = [streams for streams in batches if len(streams["train"])]
        samples = sum(len(streams["train"]) for streams in batches)
        run.recompute = lambda: self._again(batches, samples)
        with run.path.arithmetic(run.device):
            losses = self._backward(batches, samples, watched=True)
            for strategy in self.strategies:
                strategy.before_step(self.model, seen)
        run.recompute = None
        norm = self._update()
        for strategy in self.strategies:
            strategy.after_step(self.model, seen)
        self._clear()
        plain = {name: float(value) for name, value in losses.items()}
        return StepResult(plain, sum(plain.values()), samples, norm)

    def _clear(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None

    def _again(self, batches: Sequence[Mapping[str, Batch]], samples: int) -> Losses:
        """The gradients of the weights as they are now, in place of those there were, under equal randomness."""
        self._clear()
        return self._backward(batches, samples)

    def _backward(self, batches: Sequence[Mapping[str, Batch]], samples: int, watched: bool = False) -> Losses:
        """Sum up gradients; each micro-batch counts by its share of the step's samples."""
        total: Losses = {}
        penalised = False
        for self.run.micro, streams in enumerate(batches):
            self.run.seed_model(self.run.step, self.run.micro)
            share = len(streams["train"]) / samples
            data, penalties = self._losses({name: fresh(batch) for name, batch in streams.items()})
            losses = {**data, **penalties}
            loss = summed(losses)
            self._refuse_non_finite(loss, losses)
            penalised = penalised or bool(penalties)
            if watched and penalties:
                self.guard.probe(self.model, summed(data))
            (loss * share).backward()
            for name, value in losses.items():
                total[name] = total.get(name, 0.0) + value.detach() * share
        if watched:
            self.guard.after_backward(self.model, penalised=penalised)
        return total

    def _losses(self, batches: dict[str, Batch]) -> tuple[Losses, Losses]:
        """The losses of the data, and the penalties."""
        seen = self.run.seen
        for strategy in self.strategies:
            batches["train"] = strategy.alter(batches["train"], seen)
        if self._objective is not None:
            data = self._tensors(self._objective.objective(self.model, batches, seen))
        else:
            data = {"supervised": self.model.supervised(batches["train"])}
        penalties: Losses = {}
        for spec, strategy in self.phase.parts:
            terms = self._tensors(strategy.penalty(self.model, batches, seen))
            penalties |= {f"{spec.name}.{name}": value for name, value in terms.items()}
        return data, penalties

    def _tensors(self, losses: Losses) -> Losses:
        """Plain numbers among the losses become tensors."""
        return {name: torch.as_tensor(value, device=self.run.device) for name, value in losses.items()}

    def _refuse_non_finite(self, loss: Tensor, losses: Losses) -> None:
        if not bool(torch.isfinite(loss)):
            parts = [f"{name} {float(value.detach()):.4g}" for name, value in losses.items()]
            raise self._stopped("the loss is not finite", parts)
        if not loss.requires_grad:
            raise ZooError(
                f"phase {self.run.phase + 1}: nothing learns, the loss depends on no trainable parameter",
                hint="the head or a strategy of this phase must leave something trainable",
            )

    def refuse_broken_weights(self) -> None:
        """Before a checkpoint is written: what was trained must be finite.

        Raises:
            RunStoppedError: it is not.
        """
        broken = [n for n, p in self.model.named_parameters() if p.requires_grad and not bool(p.isfinite().all())]
        if broken:
            raise self._stopped("the weights are not finite", [f"the first is {broken[0]!r}"])

    def _stopped(self, what: str, parts: list[str]) -> RunStoppedError:
        rate = float(self.phase.recipe.rate or 0) * self.factor()
        where = f"phase {self.run.phase + 1}, step {self.run.step + 1}"
        return RunStoppedError(
            f"{what} at {where} ({', '.join([*parts, f'learning rate {rate:.3g}'])})",
            hint="a new run with a lower --lr, or a smaller --set train.clip; checkpoints before this step are kept",
        )

    def factor(self) -> float:
        """What the peak rates are multiplied with at ``run.step``."""
        warmup = float(self.phase.recipe.warmup or 0.0)
        return rate_factor(self.run.step, self.run.total_steps, warmup=warmup, schedule=self.run.options.schedule)

    def rates(self) -> list[float]:
        """The distinct learning rates of the last step, greatest first."""
        return sorted({group["lr"] for group in self.optimiser.param_groups}, reverse=True) if self.optimiser else []

    def _update(self) -> float:
        """Clip, set the rates, step; nothing moves where no micro-batch had a readable sample.

        Returns:
            The norm of all gradients before clipping, 0 where nothing moves.
        """
        clip = self.run.options.clip
        learning = [p for group in self.groups for p in group["params"] if p.grad is not None]
        if self.optimiser is None or not learning:
            return 0.0
        norm = torch.nn.utils.get_total_norm([p.grad for p in learning])
        if not bool(torch.isfinite(norm)):
            raise self._stopped("the gradient is not finite", [f"gradient norm {float(norm):.4g}"])
        if clip:
            torch.nn.utils.clip_grads_with_norm_(learning, clip, norm)
        factor = self.factor()
        for group, settings in zip(self.groups, self.optimiser.param_groups, strict=True):
            settings["lr"] = group["rate"] * factor
        self.optimiser.step()
        return float(norm)


def fresh(batch: Batch) -> Batch:
    """A copy that strategies may change, with nothing remembered of earlier passes."""
    targets = None if batch.targets is None else dict(batch.targets)
    return replace(batch, views=dict(batch.views), targets=targets, passes={})


def summed(losses: Mapping[str, Any]) -> Tensor:
    """The sum of scalar losses, in float32."""
    if not losses:
        return torch.zeros(())
    return torch.stack([value.float() for value in losses.values()]).sum()
