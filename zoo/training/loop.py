"""The training loop: phases of composed strategies. Strategies plug in at the points named in ``Strategy`` alone.

A phase::

    thaw, seed, prepare*, parameter groups, feed, hash every tensor
    epoch:  begin_epoch*, what is trainable is in groups
    step:   per micro-batch: alter*, objective or supervised loss, penalty*, finite?, backward
            before_step*, clip, rate, optimiser step, after_step*
    end:    frozen hashes and gradients seen, evaluation weights or best, finish*, drop what is auxiliary

Everything random is keyed by (seed, phase, epoch, step), so a phase can go on from any step with the same bits.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor
from zoo_registry import Batch, Losses, ParameterGroup, RunStoppedError, ZooError
from zoo_registry.strategy import overrides

from zoo.data.bad import BadRow
from zoo.evaluation.report import main_score
from zoo.training.checkpoint import CheckpointFolder, clone_state
from zoo.training.feed import Feed
from zoo.training.guard import Guard
from zoo.training.groups import default_groups
from zoo.training.log import MetricsLog
from zoo.training.progress import Reporter
from zoo.training.run import Phase, TrainingRun
from zoo.training.schedule import rate_factor
from zoo.training.signals import StopSignal


def train(run: TrainingRun, *, log: MetricsLog, checkpoints: CheckpointFolder | None, reporter: Reporter) -> None:
    """Run all phases, from the newest checkpoint where there is one. The model is plain and final afterwards.

    Raises:
        RunStoppedError: the loss is not finite, or a signal came; the newest checkpoint can be resumed.
        DataError: too many unreadable images.
        ZooError: a frozen tensor changed, or a trainable one never got a gradient.
    """
    resumed = None
    if checkpoints is not None:
        resumed, damaged = checkpoints.newest()
        for line in damaged:
            reporter.note(line)
    first = resumed.phase if resumed else 0
    for run.phase in range(first, len(run.phases)):
        state = resumed.state if resumed and run.phase == first else None
        PhaseLoop(run, run.phases[run.phase], log, checkpoints, reporter).run_phase(state)


class PhaseLoop:
    """One phase of a run."""

    def __init__(
        self,
        run: TrainingRun,
        phase: Phase,
        log: MetricsLog,
        checkpoints: CheckpointFolder | None,
        reporter: Reporter,
    ) -> None:
        self.run, self.phase, self.log, self.reporter = run, phase, log, reporter
        self.checkpoints = checkpoints
        self.model = run.model
        self.best: float | None = None
        self.best_epoch = -1
        self.best_weights: dict[str, Tensor] | None = None
        self.sums = {"loss": 0.0, "samples": 0}
        self.losses: Losses = {}

    def run_phase(self, state: dict[str, Any] | None) -> None:
        """Prepare, train, finish."""
        self._prepare(state)
        try:
            if self.run.total_steps:
                self._train(state)
            record = self.guard.finish(self.model, unused=self._unused(), where=f"phase {self.run.phase + 1}")
        finally:
            self.feed.close()
        self._finish(record)

    def _prepare(self, state: dict[str, Any] | None) -> None:
        run, model = self.run, self.model
        name = f"start-{run.phase}"
        if state is not None and self.checkpoints is not None:
            model.load_state_dict(self.checkpoints.load_weights(name))
        run.start = clone_state(model.state_dict())
        if state is None and self.checkpoints is not None:
            self.checkpoints.save_weights(name, run.start)
        run.step = run.epoch = run.micro = 0
        model.thaw()
        model.train()
        model.label_smoothing = run.options.label_smoothing
        run.seed_model("prepare")
        for strategy in self.phase.strategies:
            strategy.prepare(model, run)
        model.taps = tuple(tap for strategy in self.phase.strategies for tap in strategy.taps)
        model.train()
        self.feed = Feed(run, self.phase)
        recipe = self.phase.recipe
        run.total_steps = recipe.steps if recipe.steps is not None else (recipe.epochs or 0) * self.feed.steps_per_epoch
        self.groups = self._parameter_groups()
        settings = [{"params": g["params"], "lr": g["rate"], "weight_decay": g["decay"]} for g in self.groups]
        self.optimiser = torch.optim.AdamW(settings) if settings else None
        self.guard = Guard(model)
        if state is not None:
            self._restore(state)
        self.reporter.begin_phase(run.phase, len(run.phases), recipe.label(), run.total_steps)
        if run.total_steps:
            self.feed.open()

    def _parameter_groups(self) -> list[ParameterGroup]:
        rate, decay = float(self.phase.recipe.rate or 0.0), float(self.phase.recipe.decay or 0.0)
        owner = next((s for s in self.phase.strategies if overrides(s, "parameter_groups")), None)
        groups = owner.parameter_groups(self.model, rate) if owner else default_groups(self.model, rate, decay)
        claimed = [id(p) for g in groups for p in g["params"]]
        if len(claimed) != len(set(claimed)):
            raise ZooError(f"phase {self.run.phase + 1}: a parameter is in two parameter groups")
        rest = [p for p in self.model.auxiliary.parameters() if id(p) not in set(claimed)]
        if rest:
            groups = [*groups, ParameterGroup(params=rest, rate=rate, decay=decay)]
        return [group for group in groups if group["params"]]

    def _restore(self, state: dict[str, Any]) -> None:
        run, per_epoch = self.run, self.feed.steps_per_epoch
        run.step = int(state["step"])
        run.epoch = max(0, (run.step - 1) // per_epoch)
        for strategy in self.phase.strategies:
            strategy.begin_epoch(self.model, run)
        self.model.load_state_dict(state["model"])
        if self.optimiser is not None:
            self.optimiser.load_state_dict(state["optimiser"])
        for strategy, saved in zip(self.phase.strategies, state["strategies"], strict=True):
            strategy.load_state_dict(saved)
        self.guard.load(state["guard"])
        self.best, self.best_epoch, self.sums = state["best"], state["best_epoch"], dict(state["sums"])
        run.bad.add(BadRow(*row) for row in state["bad"])
        self.log.truncate(int(state["rows"]))

    def _train(self, state: dict[str, Any] | None) -> None:
        run, per_epoch = self.run, self.feed.steps_per_epoch
        grouped = {id(p) for g in self.groups for p in g["params"]}
        self.saved_at = time.monotonic()
        with StopSignal() as stop:
            while run.step < run.total_steps:
                run.epoch, within = divmod(run.step, per_epoch)
                if within == 0:
                    for strategy in self.phase.strategies:
                        strategy.begin_epoch(self.model, run)
                    self.sums = {"loss": 0.0, "samples": 0}
                self.model.train()
                self.guard.begin_epoch(self.model, grouped)
                for planned, batches in self.feed.epoch(run.epoch, within):
                    self._step(planned, batches)
                    ended = run.step % per_epoch == 0 or run.step == run.total_steps
                    if ended and self._end_epoch():
                        return
                    if self.checkpoints is not None and (ended or self._due() or stop.requested):
                        self._checkpoint()
                    if stop.requested:
                        raise stop.error(self.checkpoints is not None)
                    if ended:
                        break

    def _step(self, planned: int, batches: list[Batch]) -> None:
        run, model = self.run, self.model
        batches = [batch for batch in batches if len(batch) > 0]

        def backward() -> Losses:
            total: Losses = {}
            for run.micro, batch in enumerate(batches):
                run.seed_model(run.step, run.micro)
                share = len(batch) / planned
                losses = self._losses(Batch(views=dict(batch.views), targets=batch.targets, ids=batch.ids, features=batch.features))
                loss = torch.stack([value.float() for value in losses.values()]).sum()
                self._refuse_non_finite(loss, losses)
                (loss * share).backward()
                for name, value in losses.items():
                    total[name] = total.get(name, 0.0) + value.detach() * share
            return total

        run.recompute = backward
        self.losses = backward()
        self.guard.after_backward(model)
        for strategy in self.phase.strategies:
            strategy.before_step(model, run)
        run.recompute = None
        if self.optimiser is not None:
            self._update()
        for strategy in self.phase.strategies:
            strategy.after_step(model, run)
        if self.optimiser is not None:
            self.optimiser.zero_grad(set_to_none=True)
        samples = sum(len(batch) for batch in batches)
        loss = float(sum(self.losses.values()))
        self.sums["loss"] += loss * samples
        self.sums["samples"] += samples
        run.step += 1
        self.reporter.step(run.step, run.epoch, loss, samples)

    def _losses(self, batch: Batch) -> Losses:
        run, strategies = self.run, self.phase.strategies
        for strategy in strategies:
            batch = strategy.alter(batch, run)
        batches = {"train": batch}
        owner = next((s for s in strategies if overrides(s, "objective")), None)
        losses = dict(owner.objective(self.model, batches, run)) if owner else {"supervised": self.model.supervised(batch)}
        for spec, strategy in self.phase.parts:
            for name, value in strategy.penalty(self.model, batches, run).items():
                losses[f"{spec.name}.{name}"] = value
        return losses

    def _refuse_non_finite(self, loss: Tensor, losses: Losses) -> None:
        if not bool(torch.isfinite(loss)):
            run = self.run
            parts = ", ".join(f"{name} {float(value):.4g}" for name, value in losses.items())
            factor = rate_factor(run.step, run.total_steps, warmup=self._warmup, schedule=run.options.schedule)
            raise RunStoppedError(
                f"the loss is not finite at phase {run.phase + 1}, step {run.step + 1} ({parts}; learning rate "
                f"{float(self.phase.recipe.rate or 0) * factor:.3g})",
                hint="lower --lr, or set train.clip; checkpoints before this step are kept",
            )

    @property
    def _warmup(self) -> float:
        return float(self.phase.recipe.warmup or 0.0)

    def _update(self) -> None:
        run, optimiser = self.run, self.optimiser
        assert optimiser is not None
        if run.options.clip:
            torch.nn.utils.clip_grad_norm_([p for g in self.groups for p in g["params"]], run.options.clip)
        factor = rate_factor(run.step, run.total_steps, warmup=self._warmup, schedule=run.options.schedule)
        for group, settings in zip(self.groups, optimiser.param_groups, strict=True):
            settings["lr"] = group["rate"] * factor
        optimiser.step()

    def _evaluation_weights(self) -> dict[str, Tensor] | None:
        for strategy in self.phase.strategies:
            if overrides(strategy, "evaluation_weights"):
                return {**self.model.state_dict(), **(strategy.evaluation_weights(self.model) or {})}
        return None

    def _end_epoch(self) -> bool:
        """Evaluate and log; returns whether the phase ends early."""
        run = self.run
        mean = self.sums["loss"] / max(1, self.sums["samples"])
        row: dict[str, Any] = {"event": "epoch", "phase": run.phase, "epoch": run.epoch, "step": run.step}
        row |= {"train_loss": mean, "samples": self.sums["samples"], "rate": float(self.phase.recipe.rate or 0.0)}
        row["losses"] = {name: float(value) for name, value in self.losses.items()}
        last = run.step >= run.total_steps
        if last or (run.epoch + 1) % run.options.evaluate_every == 0:
            row["val"] = self._evaluate()
        self.log.append(row)
        self.reporter.epoch(row)
        patience = run.options.patience
        return bool(patience and self.best_epoch >= 0 and run.epoch - self.best_epoch >= patience)

    def _evaluate(self) -> dict[str, float]:
        run, model = self.run, self.model
        weights = self._evaluation_weights()
        live = clone_state(model.state_dict()) if weights is not None else None
        if weights is not None:
            model.load_state_dict(weights)
        metrics = run.evaluate(model, self.feed.validation)
        score = main_score(run.columns, metrics)
        if run.options.keep == "best" and not math.isnan(score) and (self.best is None or score > self.best):
            self.best, self.best_epoch = score, run.epoch
            self.best_weights = clone_state(model.state_dict())
            if self.checkpoints is not None:
                self.checkpoints.save_weights(f"best-{run.phase}-{run.epoch}", self.best_weights)
        if live is not None:
            model.load_state_dict(live)
        return metrics

    def _due(self) -> bool:
        every = self.run.options.checkpoint_every
        return every > 0 and time.monotonic() - self.saved_at >= every

    def _checkpoint(self) -> None:
        run = self.run
        assert self.checkpoints is not None
        state = {
            "step": run.step,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict() if self.optimiser else None,
            "strategies": [strategy.state_dict() for strategy in self.phase.strategies],
            "guard": self.guard.state(),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "sums": self.sums,
            "bad": [list(row) for row in run.bad.rows],
            "rows": self.log.rows,
        }
        needs = [f"start-{run.phase}"] + ([f"best-{run.phase}-{self.best_epoch}"] if self.best_epoch >= 0 else [])
        self.checkpoints.save(run.phase, run.step, state, needs=tuple(needs))
        self.saved_at = time.monotonic()

    def _unused(self) -> list[str]:
        """Parameters that no pass reaches even when everything learns; looked for only where some got no gradient."""
        if not self.guard.waiting:
            return []
        probe = self.run.reference()
        probe.requires_grad_(True)
        size = (2, self.run.input.channels, *self.run.input.size) if self.run.input.kind == "image" else None  # type: ignore[union-attr]
        names = []
        if size is not None:
            outputs = probe.predict(torch.rand(size, device=self.run.device))
            torch.stack([o.float().square().sum() for o in outputs.values()]).sum().backward()
            names = [n for n, p in probe.named_parameters() if p.grad is None and n.startswith("backbone.")]
            probe.zero_grad(set_to_none=True)
        probe.requires_grad_(False)
        return names

    def _finish(self, record: dict[str, Any]) -> None:
        run, model = self.run, self.model
        weights = self._evaluation_weights()
        if run.options.keep == "best" and self.best_epoch >= 0:
            if self.best_weights is None and self.checkpoints is not None:
                self.best_weights = self.checkpoints.load_weights(f"best-{run.phase}-{self.best_epoch}")
            weights = self.best_weights
            record["best_epoch"] = self.best_epoch
        if weights is not None:
            model.load_state_dict(weights)
        run.seed_model("finish")
        for strategy in self.phase.strategies:
            strategy.finish(model, run)
        model.auxiliary.clear()
        model.taps = ()
        missing = set(run.start) ^ set(model.state_dict())
        if missing:
            raise ZooError(
                f"phase {run.phase + 1} left the model with other tensors than a plain one: {sorted(missing)[:3]}",
                hint="the strategy's finish() must merge what it injected",
            )
        record |= {"event": "phase", "phase": run.phase, "label": self.phase.recipe.label(), "steps": run.step}
        self.log.append(record)
        self.reporter.end_phase(run.phase, record)
