"""What a checkpoint holds of a phase, and how a phase goes on from it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from zoo_registry.strategy import overrides

from zoo.data.bad import BadRow
from zoo.training.run import Phase

if TYPE_CHECKING:
    from zoo.training.loop import PhaseLoop


def begun_states(phase: Phase) -> list[dict[str, Any]]:
    """The states of the strategies just before an epoch begins: what their ``begin_epoch`` may depend on.

    Only of those that have a ``begin_epoch``; it runs again on resume, and must then see what it saw.
    """
    return [copy.deepcopy(s.state_dict()) if overrides(s, "begin_epoch") else {} for s in phase.strategies]


def capture(loop: PhaseLoop, *, open_epoch: bool = False) -> dict[str, Any]:
    """The state after the step just taken; with ``open_epoch`` the evaluation that ends the epoch is still to come."""
    run, optimiser = loop.run, loop.stepper.optimiser
    return {
        "step": run.step,
        "epoch": run.epoch,
        "ended": loop.ended,
        "open_epoch": open_epoch,
        "model": loop.guard.moving(loop.live or run.model.state_dict()),
        "optimiser": optimiser.state_dict() if optimiser is not None else None,
        "strategies": [strategy.state_dict() for strategy in loop.phase.strategies],
        "begun": loop.begun,
        "weights": loop.feed.weights,
        "guard": loop.guard.state(),
        "selection": loop.selection.state(),
        "sums": loop.sums,
        "losses": loop.losses,
        "bad": [list(row) for row in run.bad.rows],
        "rows": loop.log.rows,
    }


def restore(loop: PhaseLoop, state: dict[str, Any]) -> None:
    """Put a prepared phase where :func:`capture` was called.

    First everybody's ``begin_epoch`` runs as it did then, with the state of then, so that the same parts learn; then
    come weights, optimiser and states as they were after the step.
    """
    run, strategies, optimiser = loop.run, loop.phase.strategies, loop.stepper.optimiser
    run.epoch, loop.ended = int(state["epoch"]), bool(state["ended"])
    run.step = run.epoch * loop.feed.steps_per_epoch
    for strategy, saved in zip(strategies, state["begun"], strict=True):
        if saved:
            strategy.load_state_dict(copy.deepcopy(saved))
    for strategy in strategies:
        strategy.begin_epoch(loop.model, run.seen)
    run.step = int(state["step"])
    run.model.load_state_dict({**run.model.state_dict(), **state["model"]})
    if optimiser is not None:
        optimiser.load_state_dict(state["optimiser"])
    for strategy, saved in zip(strategies, state["strategies"], strict=True):
        strategy.load_state_dict(saved)
    loop.begun, loop.feed.weights = state["begun"], state["weights"]
    loop.guard.load(state["guard"])
    loop.selection.load(state["selection"])
    loop.sums, loop.losses = dict(state["sums"]), dict(state["losses"])
    loop.begun_epoch, loop.open_epoch = run.epoch, bool(state["open_epoch"])
    loop.keeper.went_on(run.step, loop.open_epoch)
    run.bad.add(BadRow(*row) for row in state["bad"])
    loop.log.truncate(int(state["rows"]))
