"""The training loop: phases of composed strategies. Strategies plug in at the points named in ``Strategy`` alone.

A phase::

    thaw, seed, prepare*, parameter groups, feed, hash every tensor
    epoch:  begin_epoch*, what is trainable is in groups
    step:   per micro-batch: alter*, objective or supervised loss, penalty*, finite?, backward   (zoo.training.step)
            before_step*, clip, rate, optimiser step, after_step*
    end:    frozen hashes and gradients seen, evaluation weights or best, delta* (last phase), finish*,
            drop what is auxiliary

Everything random is keyed by (seed, phase, epoch, step), so a phase can go on from any step with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from zoo_registry import Batch
from zoo_registry.strategy import cacheable, overrides

from zoo.evaluation.report import main_score
from zoo.training.checkpoint import CheckpointFolder, clone_state
from zoo.training.deltas import take_deltas
from zoo.training.guard import refuse_foreign
from zoo.training.keeping import Keeper
from zoo.training.limits import is_out_of_memory, smaller_steps
from zoo.training.log import MetricsLog
from zoo.training.phase_state import begun_states, restore
from zoo.training.preparing import prepare_phase
from zoo.training.progress import Reporter
from zoo.training.run import Phase, TrainingRun
from zoo.training.selection import Selection
from zoo.training.signals import StopSignal
from zoo.training.step import NonFiniteError, StepResult
from zoo.training.streams import check_streams
from zoo.training.watch import Watch, input_hint


def train(
    run: TrainingRun,
    *,
    log: MetricsLog,
    checkpoints: CheckpointFolder | None,
    reporter: Reporter,
    stop: StopSignal | None = None,
    machine: MetricsLog | None = None,
) -> None:
    """Run all phases, from the newest checkpoint where there is one. The model is plain and final afterwards.

    Args:
        run: its model has the base weights.
        log: gets a row for each epoch and phase; rows later than the checkpoint are cut off.
        checkpoints: None keeps nothing.
        reporter: told of progress.
        stop: asked after every step; None cannot be asked.
        machine: gets what each epoch cost on this machine; nothing is ever cut off of it.

    Raises:
        RunStoppedError: loss or gradient is not finite, or a signal came; the newest checkpoint can be resumed.
        SmallerStepsError: a step ran out of memory; a new run on these checkpoints takes it in smaller parts.
        DataError: too many unreadable images.
        ZooError: a frozen tensor changed, or a trainable one never got a gradient.
    """
    for phase in run.phases:
        check_streams(phase.specs, run.data)
    resumed, damaged = checkpoints.newest(run.device) if checkpoints is not None else (None, [])
    for line in damaged:
        reporter.note(line)
    run.note = reporter.note
    if resumed is None:
        log.truncate(0)
    first = resumed.phase if resumed is not None else 0
    for index, phase in enumerate(run.phases[first:], first):
        run.phase = index
        state = resumed.state if resumed is not None and index == first else None
        PhaseLoop(run, phase, log, checkpoints, reporter, stop or StopSignal(), machine).run_phase(state)


NOTHING = {"loss": 0.0, "samples": 0, "norm": 0.0, "norm_max": 0.0, "steps": 0}
"""Sums of an epoch before its first step."""


class PhaseLoop:
    """One phase of a run.

    Attributes:
        ended: whether its last step is done.
        begun: states of strategies at the epoch's start, see :func:`zoo.training.phase_state.begun_states`.
        begun_epoch: the epoch whose ``begin_epoch`` ran last.
        open_epoch: whether the phase goes on with the evaluation of an epoch all of whose steps are done.
        live: the weights that training goes on with while others are evaluated in their place.
        sums: loss, samples, gradient norms and steps of the epoch so far.
    """

    def __init__(
        self,
        run: TrainingRun,
        phase: Phase,
        log: MetricsLog,
        checkpoints: CheckpointFolder | None,
        reporter: Reporter,
        stop: StopSignal,
        machine: MetricsLog | None = None,
    ) -> None:
        self.run, self.phase, self.log, self.reporter, self.stop = run, phase, log, reporter, stop
        self.checkpoints = checkpoints
        self.model: Any = run.model
        self.selection = Selection(run.phase, run.options.keep, run.options.patience, checkpoints)
        self.ended = False
        self.begun: list[dict[str, Any]] = [{} for _ in phase.strategies]
        self.sums = dict(NOTHING)
        self.losses: dict[str, float] = {}
        self.machine, self.watch, self.hinted = machine, Watch(run.device), False
        self.begun_epoch = -1
        self.open_epoch = False
        self.live: dict[str, Tensor] = {}
        self.keeper = Keeper(self)

    def run_phase(self, state: dict[str, Any] | None) -> None:
        """Prepare, train, finish."""
        self._begin(state)
        self._prepare(None if state is None else state["guard"]["before"])
        if state is not None:
            restore(self, state)
        self.reporter.begin_phase(self.run.phase, len(self.run.phases), self.phase.recipe.label(), self.run.total_steps)
        try:
            self.ended = self.ended or not self.run.total_steps
            if not self.ended:
                self.reporter.doing("computing features" if self.feed.cached else "opening the data")
                self.feed.open()
                with self.stop.deferred():
                    self._train_within_memory()
            steps = self.run.total_steps
            exact = self.run.options.features_precision == "float32"  # as the final metrics must be
            self.run.rested = exact and cacheable(self.phase.specs) and (self.feed.cached or not steps)
            unused = self.run.unreached() if self.guard.waiting else []
            record = self.guard.finish(self.model, unused=unused, where=f"phase {self.run.phase + 1}")
        finally:
            self.feed.close()
            self.keeper.close()
        self._finish(record)

    def _begin(self, state: dict[str, Any] | None) -> None:
        """The weights at the phase's start. Those of the first phase come from assembly."""
        run, name = self.run, f"start-{self.run.phase}"
        if self.checkpoints is not None and run.phase > 0:
            if state is not None:
                self.model.load_state_dict(self.checkpoints.load_weights(name))
            else:
                self.checkpoints.save_weights(name, self.model.state_dict())
        run.dress(self.model)  # an earlier phase may have put plain tensors in
        run.start = clone_state(self.model.state_dict())
        run.step = run.epoch = run.micro = 0

    def _prepare(self, before: Mapping[str, str] | None) -> None:
        prepared = prepare_phase(self.run, self.phase, before)
        self.feed, self.guard, self.stepper = prepared.feed, prepared.guard, prepared.stepper

    def _train_within_memory(self) -> None:
        """Train; a step that runs out of memory ends this attempt.

        Raises:
            SmallerStepsError, RunStoppedError: see :func:`zoo.training.limits.smaller_steps`.
        """
        run = self.run
        try:
            self._train()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            size = min(run.options.batch_size, len(run.train))
            raise smaller_steps(run.limits, self.model, phase=run.phase, step=run.step, size=size) from None

    def _train(self) -> None:
        run, per_epoch = self.run, self.feed.steps_per_epoch
        if self.open_epoch:
            self._close_epoch()
        while not self.ended:
            run.epoch, within = divmod(run.step, per_epoch)
            anew = self.begun_epoch != run.epoch
            if anew:
                self._begin_epoch()
            self.model.train()
            self.guard.begin_epoch(self.model, self.stepper.grouped, anew=anew)
            self.watch.begin()
            for batches in self.watch.feed(self.keeper.waited(self.feed.epoch(run.epoch, within))):
                self._step(batches)
                if run.step == run.total_steps or run.step % per_epoch == 0:
                    self._close_epoch()
                else:
                    self.keeper.after_step()
                if self.ended:
                    break

    def _begin_epoch(self) -> None:
        self.begun_epoch = self.run.epoch
        self.begun = begun_states(self.phase)
        for strategy in self.phase.strategies:
            strategy.begin_epoch(self.model, self.run.seen)
        self.feed.weigh()
        self.sums = dict(NOTHING)

    def _step(self, batches: list[dict[str, Batch]]) -> None:
        run = self.run
        if run.limits.steps:
            self._log_limit()
        try:
            result = self.stepper.take(batches)
        except NonFiniteError as error:
            self.keeper.keep_finite(error.record)
            raise
        self.losses = result.losses
        self.sums["loss"] += result.loss * result.samples
        self.sums["samples"] += result.samples
        self.sums["norm"] += result.norm
        self.sums["norm_max"] = max(self.sums["norm_max"], result.norm)
        self.sums["steps"] += 1
        self.watch.count(result.samples)
        run.step += 1
        if run.options.log_every and run.step % run.options.log_every == 0:
            self._log_step(result)
        self.reporter.step(run.step, run.epoch, result.loss, result.samples)

    def _log_limit(self) -> None:
        """A row where smaller micro-batches begin: what follows is computed from them."""
        run = self.run
        size = run.limits.begins(run.phase, run.step)
        if size is not None:
            row = {"event": "memory", "phase": run.phase, "epoch": run.epoch, "step": run.step, "micro_batch": size}
            self.log.append(row)

    def _log_step(self, result: StepResult) -> None:
        run = self.run
        row: dict[str, Any] = {"event": "step", "phase": run.phase, "epoch": run.epoch, "step": run.step}
        row |= {"loss": result.loss, "losses": result.losses, "samples": result.samples}
        row |= {"learning_rates": self.stepper.rates(), "gradient_norm": result.norm}
        self.log.append(row, sync=False)
        self.reporter.step_row(row)

    def _evaluation_weights(self) -> dict[str, Tensor] | None:
        """Those of the strategy that owns them, as far as they may move: what is frozen stays as it is, bit by bit."""
        for strategy in self.phase.strategies:
            if overrides(strategy, "evaluation_weights"):
                found = strategy.evaluation_weights(self.model)
                return None if found is None else self.guard.moving(found)
        return None

    def _close_epoch(self) -> None:
        self.ended = self._end_epoch() or self.run.step == self.run.total_steps
        self.open_epoch = False
        self.keeper.after_step()

    def _end_epoch(self) -> bool:
        """Evaluate and log; returns whether the phase ends early."""
        run, sums = self.run, self.sums
        machine = self.watch.row()
        row: dict[str, Any] = {"event": "epoch", "phase": run.phase, "epoch": run.epoch, "step": run.step}
        row |= {"train_loss": sums["loss"] / max(1, sums["samples"]), "samples": sums["samples"]}
        row |= {"rate": float(self.phase.recipe.rate or 0.0), "losses": self.losses}
        row |= {"learning_rates": self.stepper.rates(), "gradient_norm": sums["norm"] / max(1, sums["steps"])}
        row["gradient_norm_max"] = sums["norm_max"]
        if run.step == run.total_steps or (run.epoch + 1) % run.options.evaluate_every == 0:
            row["val"] = self._evaluate()
        self.log.append(row)
        self.reporter.epoch({**row, "machine": machine})
        self._log_machine(machine)
        return self.selection.exhausted(run.epoch)

    def _log_machine(self, found: dict[str, Any]) -> None:
        """Note what the epoch cost; a run that waits for its input is told once a phase.

        The first of several epochs does not count: it reads what later ones may find decoded.
        """
        run = self.run
        if not found["steps"]:  # after a resume between the last step and the evaluation
            return
        if self.machine is not None:
            place = {"event": "epoch", "phase": run.phase, "epoch": run.epoch, "step": run.step}
            self.machine.append({**place, "time": time.time(), **found}, sync=False)
        images = run.input.kind == "image"
        hint = input_hint(found, workers=run.options.workers, images=images, cached=self.feed.cached)
        only = run.total_steps <= self.feed.steps_per_epoch
        if hint and not self.hinted and (run.epoch > 0 or only):
            self.hinted = True
            self.reporter.note(hint)

    def _evaluate(self) -> dict[str, float]:
        run, model = self.run, self.model
        self.reporter.doing("evaluating")
        weights = self._evaluation_weights()
        if weights:
            self.live = clone_state(model.state_dict())
            model.load_state_dict({**self.live, **weights})
        try:
            metrics = self.keeper.evaluated(lambda: run.evaluate(model, self.feed.validation))
            self.selection.offer(main_score(run.columns, metrics), run.epoch, self.guard.moving(model.state_dict()))
        finally:
            if weights:
                model.load_state_dict(self.live)
                self.live = {}
        return metrics

    def _final_weights(self, record: dict[str, Any]) -> dict[str, Tensor] | None:
        """An average that is to be the result, else those of the best epoch, else the evaluation weights."""
        average = None
        if any(strategy.result_is_average for strategy in self.phase.strategies):
            average = self._evaluation_weights()
        best = self.selection.weights() if average is None else None
        if best is not None:
            record["best_epoch"] = self.selection.epoch
        return average or best or self._evaluation_weights()

    def _finish(self, record: dict[str, Any]) -> None:
        """The weights that the phase ends with, ``finish``, and away with what is auxiliary.

        Raises:
            ZooError: the model has other tensors than at the phase's start.
        """
        run, model = self.run, self.model
        weights = self._final_weights(record)
        if weights:
            model.load_state_dict({**model.state_dict(), **weights})
        if run.phase == len(run.phases) - 1:
            run.deltas = take_deltas(self.phase, model)
        run.seed_model("finish")
        for strategy in self.phase.strategies:
            strategy.finish(model, run.seen)
        model.auxiliary.clear()
        model.taps = ()
        refuse_foreign(run.start, model, where=f"phase {run.phase + 1}")
        found = {spec.name: dict(f) for spec, strategy in self.phase.parts if (f := strategy.findings())}
        record |= {"findings": found} if found else {}
        record |= {"event": "phase", "phase": run.phase, "label": self.phase.recipe.label(), "steps": run.step}
        self.log.append(record)
        self.reporter.end_phase(run.phase, record)
