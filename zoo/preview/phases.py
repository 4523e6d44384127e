"""One phase on the throw-away model: prepared, looked at epoch by epoch, timed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from zoo_registry import DataError, RunStoppedError, Strategy, ZooError
from zoo_registry.strategy import overrides

from zoo.preview.blocks import Watch
from zoo.preview.estimate import Costs, estimate_phase
from zoo.preview.measure import LoadCost, PassCost, StepCost, load_features, load_train, time_steps
from zoo.preview.memory import tensor_bytes
from zoo.preview.report import Estimate, PhaseView, StrategyView
from zoo.preview.throwaway import NotHereError, PreviewRun
from zoo.preview.words import train_words
from zoo.training.preparing import Prepared, prepare_phase
from zoo.training.rehearsal import UnreadError
from zoo.training.run import Phase


class PhasePreview:
    """Looks at one phase.

    Args:
        run: fresh, standing before the phase.
        phase: the phase.
        evaluation: what a pass without gradients costs; None where nothing is to be measured.
        batches: how many steps are timed.
        workers: processes that the real run loads with.

    Attributes:
        reason: why the phase was not measured, or None.
    """

    def __init__(
        self, run: PreviewRun, phase: Phase, *, evaluation: PassCost | None, batches: int, workers: int
    ) -> None:
        self.run, self.phase, self.evaluation, self.batches, self.workers = run, phase, evaluation, batches, workers
        self.reason: str | None = None
        self._load: LoadCost | None = None
        self._absent: set[int] = set()

    def look(self, *, warm: bool) -> PhaseView:
        """Everything of the phase; ``warm`` says that an earlier phase has read the data.

        Raises:
            ZooError: the recipe is wrong: a run would be refused.
        """
        run = self.run
        watch = Watch(run.model)
        self._tolerate_absent()
        self.prepared: Prepared = prepare_phase(run, self.phase, before={})
        says = [self._says(strategy) for strategy in self.phase.strategies]
        started = 0
        first: StepCost | None = None
        last: StepCost | None = None
        state = 0
        for epoch in self._epochs():
            self._begin_epoch(epoch)
            state = watch.look(run.model, epoch)
            if epoch == 0:
                started = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
                first = self._time()
        if state > 0 and first is not None:
            last = self._time()
        states = self._states(watch)
        trainable = tensor_bytes(watch.learning(run.model))
        return self._view(watch, says, started, self._estimate(first, last, states, trainable, warm))

    def _tolerate_absent(self) -> None:
        """A strategy whose teacher is not on this machine is left unprepared; the others are seen all the same."""
        for strategy in self.phase.strategies:
            strategy.prepare = self._tolerant(strategy)  # type: ignore[method-assign]

    def _tolerant(self, strategy: Strategy) -> Any:
        prepare = strategy.prepare

        def tolerant(model: Any, run: Any) -> None:
            try:
                prepare(model, run)
            except (NotHereError, UnreadError) as error:
                self._absent.add(id(strategy))
                self.reason = error.message

        return tolerant

    def _says(self, strategy: Strategy) -> tuple[str, ...]:
        if id(strategy) in self._absent:
            return (f"not prepared: {self.reason}",)
        return tuple(strategy.explain(self.run.model, self.run.seen))  # type: ignore[arg-type]

    def _epochs(self) -> Iterator[int]:
        """The epochs that may differ: all where a strategy acts when one begins, else the first."""
        if not self.run.total_steps:
            return
        count = -(-self.run.total_steps // self.run.steps_per_epoch)
        yield from range(count if any(overrides(s, "begin_epoch") for s in self.phase.strategies) else 1)

    def _begin_epoch(self, epoch: int) -> None:
        run = self.run
        run.epoch, run.step = epoch, epoch * run.steps_per_epoch
        for strategy in self.phase.strategies:
            if id(strategy) not in self._absent:
                strategy.begin_epoch(run.model, run.seen)  # type: ignore[arg-type]
        run.model.train()
        self.prepared.guard.begin_epoch(run.model, self.prepared.stepper.grouped)

    def _states(self, watch: Watch) -> tuple[int, ...]:
        """How far each epoch is from the first state."""
        if not watch.states:
            return ()
        count = -(-self.run.total_steps // self.run.steps_per_epoch)
        return tuple(watch.states) + (watch.states[-1],) * (count - len(watch.states))

    def _time(self) -> StepCost | None:
        """What a step costs now; None, and a reason, where it cannot be measured.

        Raises:
            ZooError: no run of this recipe could take the step.
        """
        if self.evaluation is None or self.reason is not None:
            return None
        try:
            return time_steps(self.run, self.prepared.stepper, self._batches, self.batches)
        except (NotHereError, RunStoppedError, DataError) as error:
            self.reason = error.message
        except ZooError:
            raise
        except (RuntimeError, MemoryError, OSError) as error:
            memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
            first = (str(error).splitlines() or [""])[0]
            self.reason = "out of memory" if memory else f"{type(error).__name__}: {first}"
        return None

    def _batches(self, size: int, count: int) -> list[Any]:
        if self.prepared.feed.cached:
            return load_features(self.run, size, count)
        self._load, loaded = load_train(self.run, self.phase, size, count)
        return loaded

    def _estimate(
        self, first: StepCost | None, last: StepCost | None, states: tuple[int, ...], trainable: int, warm: bool
    ) -> Estimate | None:
        if self.evaluation is None or self.reason is not None:
            return None
        costs = Costs(
            evaluation=self.evaluation,
            load=self._load,
            first=first,
            last=last,
            states=states,
            passes=self.run.passes,
            views=min(self.prepared.feed.views, len(states)),
            fits=any(not spec.gradient for spec in self.phase.specs),
            trainable=trainable,
            strategies=sum(tensor_bytes(strategy.state_dict().values()) for strategy in self.phase.strategies),
            workers=self.workers,
        )
        return estimate_phase(self.run, costs, warm=warm)

    def _view(self, watch: Watch, says: list[tuple[str, ...]], started: int, estimate: Estimate | None) -> PhaseView:
        run, recipe = self.run, self.phase.recipe
        strategies = self._strategies(says)
        augmenting = [
            view.name
            for view, strategy in zip(strategies, self.phase.strategies, strict=True)
            if overrides(strategy, "augment")
        ]
        return PhaseView(
            phase=run.phase,
            label=recipe.label(),
            strategies=strategies,
            epochs=recipe.epochs,
            steps_per_epoch=run.steps_per_epoch,
            steps=run.total_steps,
            batch_size=run.options.batch_size,
            accumulate=run.options.accumulate,
            rate=float(recipe.rate or 0.0),
            decay=float(recipe.decay or 0.0),
            warmup=float(recipe.warmup or 0.0),
            warmup_steps=round(float(recipe.warmup or 0.0) * run.total_steps),
            schedule=run.options.schedule,
            augment=str(recipe.augment),
            train_view=train_words(run.input, str(recipe.augment), augmenting),
            cached=bool(run.total_steps) and self.prepared.feed.cached,
            views=self.prepared.feed.views if self.prepared.feed.cached else 0,
            parameters=watch.parameters(run.model, started),
            blocks=watch.blocks(run.model, self.prepared.stepper.groups),
            estimate=estimate,
            not_measured=self.reason,
        )

    def _strategies(self, says: list[tuple[str, ...]]) -> tuple[StrategyView, ...]:
        """Their views in calling order; the recipe has full names and options, as written."""
        written = list(self.phase.recipe.strategies)
        views = []
        for spec, lines in zip(self.phase.specs, says, strict=True):
            component = next(c for c in written if c.name.rpartition("/")[2] == spec.name)
            written.remove(component)
            views.append(StrategyView(name=component.name, role=spec.role, options=dict(component.options), says=lines))
        return tuple(views)
