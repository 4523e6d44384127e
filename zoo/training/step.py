"""One optimiser step: losses of every micro-batch, backward, the strategies' points, the update."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
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


class NonFiniteError(RunStoppedError):
    """Loss, gradient or weights became NaN or infinite.

    Attributes:
        record: what is known of the step: ``reason``, ``phase``, ``epoch``, ``step`` (from 0), ``losses`` by name,
            ``gradient_norm`` and that of the step before, ``learning_rate`` (the peak's at this step), ``tensors``
            whose gradients or weights are not finite.
    """

    record: Mapping[str, Any] = MappingProxyType({})


@dataclass(slots=True)
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
        self._parameters = [p for group in self.groups for p in group["params"]]
        self.grouped = {id(p) for p in self._parameters}
        self._objective = next((s for s in self.strategies if overrides(s, "objective")), None)
        # A step may take less time than asking everybody: those whose method does nothing are not asked.
        self._alter, self._before, self._after = (
            [s for s in self.strategies if overrides(s, method)] for method in ("alter", "before_step", "after_step")
        )
        self._penalties = [(spec, s) for spec, s in phase.parts if overrides(s, "penalty")]
        self._last_norm: float | None = None

    def take(self, batches: Sequence[Mapping[str, Batch]]) -> StepResult:
        """Take the step ``run.step``.

        Args:
            batches: stream -> batch, for each micro-batch; those without a readable ``train`` sample are left out.

        Raises:
            NonFiniteError: loss or gradient; the weights have not moved.
        """
        run, seen = self.run, self.run.seen
        batches = [streams for streams in batches if len(streams["train"])]
        samples = sum(len(streams["train"]) for streams in batches)
        with run.path.arithmetic(run.device):
            losses = self._backward(batches, samples, watched=True)
            if self._before:
                self._refuse_non_finite(losses, numbers(losses.values()))
                run.recompute = lambda: self._again(batches, samples)
                for strategy in self._before:
                    strategy.before_step(self.model, seen)
                run.recompute = None
        plain, norm = self._update(losses)
        for strategy in self._after:
            strategy.after_step(self.model, seen)
        self._clear()
        return StepResult(plain, sum(plain.values()), samples, norm)

    def _clear(self) -> None:
        for parameter in self._parameters:
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
            if not loss.requires_grad:
                raise self._nothing_learns()
            penalised = penalised or bool(penalties)
            if watched and penalties:
                self.guard.probe(self.model, summed(data))
            (loss if share == 1.0 else loss * share).backward()
            for name, value in losses.items():
                part = value.detach() if share == 1.0 else value.detach() * share
                total[name] = total[name] + part if name in total else part
        if watched:
            self.guard.after_backward(self.model, penalised=penalised)
        return total

    def _losses(self, batches: dict[str, Batch]) -> tuple[Losses, Losses]:
        """The losses of the data, and the penalties."""
        seen = self.run.seen
        for strategy in self._alter:
            batches["train"] = strategy.alter(batches["train"], seen)
        if self._objective is not None:
            data = self._tensors(self._objective.objective(self.model, batches, seen))
        else:
            data = {"supervised": self.model.supervised(batches["train"])}
        penalties: Losses = {}
        for spec, strategy in self._penalties:
            terms = self._tensors(strategy.penalty(self.model, batches, seen))
            penalties |= {f"{spec.name}.{name}": value for name, value in terms.items()}
        return data, penalties

    def _tensors(self, losses: Losses) -> Losses:
        """Plain numbers among the losses become tensors."""
        return {name: torch.as_tensor(value, device=self.run.device) for name, value in losses.items()}

    def _refuse_non_finite(self, losses: Losses, found: Sequence[float], norm: float | None = None) -> None:
        """Look at the numbers of the losses, of each and of their sum, and at the norm where it is known."""
        bad_loss = not math.isfinite(sum(found))
        if not bad_loss and (norm is None or math.isfinite(norm)):
            return
        named = dict(zip(losses, found, strict=True))
        gradients = [(n, p.grad) for n, p in self.model.named_parameters() if p.grad is not None]
        broken = [name for name, gradient in gradients if not bool(gradient.isfinite().all())]
        raise self._stopped("the loss is not finite" if bad_loss else "the gradient is not finite", named, norm, broken)

    def _nothing_learns(self) -> ZooError:
        return ZooError(
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
            raise self._stopped("the weights are not finite", {}, None, broken)

    def _stopped(
        self, what: str, losses: Mapping[str, float], norm: float | None, broken: Sequence[str]
    ) -> NonFiniteError:
        """The error, with all that is known of the step, for a person and for the record."""
        run, before = self.run, self._last_norm
        rate = float(self.phase.recipe.rate or 0) * self.factor()
        parts = [f"{name} {value:.4g}" for name, value in losses.items()]
        parts += [] if norm is None else [f"gradient norm {norm:.4g}"]
        parts += [] if before is None else [f"gradient norm of the step before {before:.4g}"]
        parts += [f"the first of {len(broken)} tensors is {broken[0]!r}"] if broken else []
        where = f"phase {run.phase + 1}, step {run.step + 1}"
        error = NonFiniteError(
            f"{what} at {where} ({', '.join([*parts, f'learning rate {rate:.3g}'])})",
            hint="a new run with a lower --lr (--recipe takes this run's recipe.toml), or a smaller --set train.clip; "
            "--resume would come to the same numbers",
        )
        error.record = {
            "reason": what, "phase": run.phase, "epoch": run.epoch, "step": run.step, "losses": dict(losses),
            "gradient_norm": norm, "gradient_norm_before": before, "learning_rates": self.rates(),
            "learning_rate": rate, "tensors": list(broken),
        }  # fmt: skip
        return error

    def factor(self) -> float:
        """What the peak rates are multiplied with at ``run.step``."""
        warmup = float(self.phase.recipe.warmup or 0.0)
        return rate_factor(self.run.step, self.run.total_steps, warmup=warmup, schedule=self.run.options.schedule)

    def rates(self) -> list[float]:
        """The distinct learning rates of the last step, greatest first."""
        return sorted({group["lr"] for group in self.optimiser.param_groups}, reverse=True) if self.optimiser else []

    def _update(self, losses: Losses) -> tuple[dict[str, float], float]:
        """Check, clip, set the rates, step; nothing moves where no micro-batch had a readable sample.

        The device is waited for once: for the numbers of the losses and of the gradient's norm together.

        Returns:
            The losses as numbers, and the norm of all gradients before clipping, 0 where nothing moves.
        """
        learning = [p for p in self._parameters if p.grad is not None]
        if self.optimiser is None or not learning:
            return dict(zip(losses, numbers(losses.values()), strict=True)), 0.0
        gradients = [p.grad for p in learning]
        found, size = read(losses, gradients)
        self._refuse_non_finite(losses, found, size)
        clip = self.run.options.clip
        if clip and clip < size + 1e-6:
            torch._foreach_mul_(gradients, clip / (size + 1e-6))
        factor = self.factor()
        for group, settings in zip(self.groups, self.optimiser.param_groups, strict=True):
            settings["lr"] = group["rate"] * factor
        self.optimiser.step()
        self._last_norm = size
        return dict(zip(losses, found, strict=True)), size


def read(losses: Losses, gradients: list[Any]) -> tuple[list[float], float]:
    """The losses as numbers, and the Euclidean norm of all gradients as one vector.

    A device that computes on its own is waited for once.
    """
    norms = torch._foreach_norm(gradients)
    if norms[0].device.type == "cpu":
        return numbers(losses.values()), math.hypot(*(norm.item() for norm in norms))
    *found, size = numbers([*losses.values(), torch.linalg.vector_norm(torch.stack(norms))])
    return found, size


def numbers(values: Iterable[Tensor]) -> list[float]:
    """Scalar tensors as numbers, with one wait for a device that computes on its own."""
    tensors = list(values)
    if all(value.device.type == "cpu" for value in tensors):
        return [value.item() for value in tensors]
    found: list[float] = torch.stack([value.float() for value in tensors]).tolist()
    return found


def fresh(batch: Batch) -> Batch:
    """A copy that strategies may change, with nothing remembered of earlier passes."""
    targets = None if batch.targets is None else dict(batch.targets)
    return Batch(dict(batch.views), targets, batch.weights, batch.mix, batch.ids, batch.features)


def summed(losses: Mapping[str, Any]) -> Tensor:
    """The sum of scalar losses, in float32."""
    if not losses:
        return torch.zeros(())
    if len(losses) == 1:
        return next(iter(losses.values())).float()
    return torch.stack([value.float() for value in losses.values()]).sum()
