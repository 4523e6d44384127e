"""Checks of a strategy: it runs alone for a few steps on the kit's own model and data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from zoo_registry.building import Delta
from zoo_registry.conformance import run as loop
from zoo_registry.conformance.model import ReferenceModel, under
from zoo_registry.conformance.samples import COUNT
from zoo_registry.conformance.spec_checks import require
from zoo_registry.conformance.tiny import CAPABILITIES, TinyHead
from zoo_registry.options import parse_options
from zoo_registry.registry import Entry
from zoo_registry.specs import StrategySpec
from zoo_registry.strategy import Batch, Strategy, cacheable

STEPS = 9
"""Three epochs of three steps."""

LEARNING_STEPS = 30

StrategyEntry = Entry[StrategySpec]


def applicable(entry: StrategyEntry) -> Iterator[Callable[[StrategyEntry], None]]:
    """The checks that apply: none of those with steps where the kit's model lacks what the strategy needs."""
    spec = entry.spec
    if not spec.needs <= CAPABILITIES or not all(hasattr(TinyHead, name) for name in spec.head_needs):
        return
    yield prepare_runs
    yield frozen_parameters_do_not_move
    yield groups_cover_trainable_parameters_once
    if spec.gradient:
        yield injected_parameters_receive_gradients
        yield state_round_trips
        if cacheable([spec]):
            yield cached_features_are_enough
    if spec.role == "tuning" and "backbone" not in spec.touches:
        yield backbone_stays_untouched
    yield merged_result_fits_plain_model if spec.merges else delta_gives_the_result_back
    yield loss_goes_down_or_nothing_trains


def build(entry: StrategyEntry) -> Strategy:
    """The strategy with its default options, or those of its spec's example."""
    options = parse_options(entry.spec.options, entry.spec.example, where="example")
    factory: Any = entry.factory()
    strategy = factory(entry.spec, options)
    if not isinstance(strategy, Strategy):
        raise AssertionError(f"the factory returned {type(strategy).__name__}, not a Strategy")
    return strategy


def trained(entry: StrategyEntry, steps: int = STEPS) -> loop.Phase:
    """A phase of this strategy alone, trained and not yet finished."""
    phase = loop.begin([(entry.spec, build(entry))], steps=steps if entry.spec.gradient else 0)
    loop.advance(phase, until=phase.run.total_steps)
    return phase


def outputs(model: ReferenceModel, inputs: Tensor) -> Tensor:
    """Logits in evaluation mode."""
    with loop.evaluating(model), torch.no_grad():
        result: Tensor = model(Batch({"eval": inputs}, ids=range(len(inputs)))).outputs["label"]
    return result


def prepare_runs(entry: StrategyEntry) -> None:
    """``prepare`` works and leaves a model that still gives outputs."""
    phase = loop.begin([(entry.spec, build(entry))], steps=STEPS)
    result = outputs(phase.model, phase.run.inputs)
    require(result.shape == (COUNT, 3) and bool(result.isfinite().all()), "after prepare the outputs are broken")


def frozen_parameters_do_not_move(entry: StrategyEntry) -> None:
    """Parameters and buffers that are frozen throughout are bit-identical before ``finish``."""
    phase = trained(entry)
    now = phase.model.state_dict()
    wrong = [n for n, t in phase.prepared.items() if n not in phase.moved and n in now and not torch.equal(t, now[n])]
    require(not wrong, f"frozen, and yet moved: {', '.join(wrong[:4])}")


def groups_cover_trainable_parameters_once(entry: StrategyEntry) -> None:
    """Every parameter that trains at any time is in one group, and none is in two."""
    phase = trained(entry)
    names = {id(parameter): name for name, parameter in phase.model.named_parameters()}
    claimed = [id(parameter) for group in phase.groups for parameter in group["params"]]
    twice = [names.get(i, "?") for i in claimed if claimed.count(i) > 1]
    require(not twice, f"in two groups: {', '.join(twice[:4])}")
    trains = phase.moved | {name for name, parameter in phase.model.named_parameters() if parameter.requires_grad}
    left = [name for i, name in names.items() if name in trains and i not in set(claimed)]
    require(not left or not entry.spec.gradient, f"trainable, but in no group: {', '.join(left[:4])}")


def injected_parameters_receive_gradients(entry: StrategyEntry) -> None:
    """Whatever ``prepare`` added, and everything else that trains, gets a gradient that is not zero at some step."""
    phase = trained(entry)
    names = {name for name, _ in phase.model.named_parameters()}
    dead = sorted((phase.moved & names) - phase.reached)
    require(not dead, f"trainable, but without any gradient: {', '.join(dead[:4])}")
    idle = sorted(
        name for name in phase.injected - phase.moved if dict(phase.model.named_parameters())[name].requires_grad
    )
    require(not idle, f"injected, but never trained: {', '.join(idle[:4])}")


def state_round_trips(entry: StrategyEntry) -> None:
    """Stopped at any step and resumed with fresh objects, training ends at the same bits."""
    whole = trained(entry)
    for stop in (STEPS // 2, loop.STEPS_PER_EPOCH):
        first = loop.begin([(entry.spec, build(entry))], steps=STEPS)
        loop.advance(first, until=stop)
        saved = loop.checkpoint(first)
        _state_is_flat(saved["strategies"][0])
        second = loop.begin([(entry.spec, build(entry))], steps=STEPS)
        loop.resume(second, copy.deepcopy(saved))
        loop.advance(second, until=STEPS)
        wanted = whole.model.state_dict()
        differing = [n for n, tensor in second.model.state_dict().items() if not torch.equal(tensor, wanted[n])]
        require(not differing, f"resumed at step {stop}, these end differently: {', '.join(differing[:4])}")


def _state_is_flat(state: dict[str, Any]) -> None:
    for name, value in state.items():
        flat = isinstance(name, str) and isinstance(value, Tensor | int | float | bool | str)
        require(flat, f"state_dict()[{name!r}] is {type(value).__name__}, not a tensor or scalar")


def cached_features_are_enough(entry: StrategyEntry) -> None:
    """The spec says that it touches neither input nor backbone, so it works where batches hold features alone."""
    parts = [(entry.spec, build(entry))]
    if entry.spec.role != "tuning":
        parts.append((StrategySpec(name="probe", summary="a linear probe", factory="x:y"), _Probe()))
    phase = loop.begin(parts, steps=STEPS, cached=True)
    try:
        loop.advance(phase, until=STEPS)
    except Exception as error:
        raise AssertionError(
            f"fails on cached features ({type(error).__name__}: {error}); does it touch the input?"
        ) from error


class _Probe(Strategy):
    def prepare(self, model: Any, run: Any) -> None:
        model.freeze()


def backbone_stays_untouched(entry: StrategyEntry) -> None:
    """The spec says that it does not touch the backbone, so the backbone is bit-identical at the end."""
    phase = trained(entry)
    loop.end(phase)
    now = phase.model.state_dict()
    changed = [n for n, t in phase.run.start.items() if n.startswith("backbone.") and not torch.equal(t, now[n])]
    require(not changed, f"'backbone' is not in touches, and yet changed: {', '.join(changed[:4])}")


def merged_result_fits_plain_model(entry: StrategyEntry) -> None:
    """After ``finish`` a freshly built model takes the state dict and gives the same outputs."""
    phase = trained(entry)
    before = outputs(phase.model, phase.run.inputs) if _leaves_outputs_alone(phase) else None
    loop.end(phase)
    state = phase.model.state_dict()
    foreign = sorted(set(state) ^ phase.plain)
    require(not foreign, f"after finish the model is not a plain one: {', '.join(foreign[:4])}")
    plain = ReferenceModel()
    plain.load_state_dict(state)
    after = outputs(phase.model, phase.run.inputs)
    _close(outputs(plain, phase.run.inputs), after, "a plain model with the merged weights gives other outputs")
    if before is not None:
        _close(after, before, "merging changed the outputs")


def _leaves_outputs_alone(phase: loop.Phase) -> bool:
    """Whether ``finish`` only merges what ``prepare`` injected into the backbone."""
    own = any(under(name, ["backbone"]) for name in phase.injected)
    return own and phase.owner("evaluation_weights") is None and phase.parts[0][0].role == "tuning"


def delta_gives_the_result_back(entry: StrategyEntry) -> None:
    """``delta``, put on the model of the phase's start by ``apply``, gives the outputs of the trained one."""
    phase = trained(entry)
    strategy = phase.strategies[0]
    delta = strategy.delta(phase.model)
    require(isinstance(delta, Delta), f"merges=False, and delta() returned {type(delta).__name__}")
    assert delta is not None
    saved = Delta(method=delta.method, tensors=loop.copied(delta.tensors), config=copy.deepcopy(dict(delta.config)))
    loop.end(phase)
    plain = ReferenceModel()
    plain.load_state_dict(phase.run.start)
    build(entry).apply(plain, saved)
    message = "the delta on a plain model does not give the trained outputs"
    _close(outputs(plain, phase.run.inputs), outputs(phase.model, phase.run.inputs), message)


def _close(left: Tensor, right: Tensor, message: str) -> None:
    gap = float((left - right).abs().max())
    require(gap <= 1e-4 * max(1.0, float(right.abs().max())), f"{message} (largest difference {gap:.2g})")


def loss_goes_down_or_nothing_trains(entry: StrategyEntry) -> None:
    """After 30 steps and ``finish`` the supervised loss is lower than before, unless no weight changed."""
    phase = trained(entry, LEARNING_STEPS)
    start = ReferenceModel()
    start.load_state_dict(phase.run.base)
    before = phase.run.loss(start)
    loop.end(phase)
    after = phase.run.loss(phase.model)
    state = phase.model.state_dict()
    moved = any(name not in state or not torch.equal(tensor, state[name]) for name, tensor in phase.run.base.items())
    require(after < before or not moved, f"the supervised loss went from {before:.4f} to {after:.4f}")
