"""Whether what a strategy left in its small form is true, found out by trying it on the pretrained weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from zoo_registry import Delta, Registry, StrategySpec, ZooError
from zoo_registry.options import parse_options
from zoo_registry.strategy import overrides

from zoo.assembly.assemble import Assembled
from zoo.assembly.model import TransferModel
from zoo.bundle.adapter import Adapter
from zoo.bundle.golden import ATOL, RTOL, golden_inputs
from zoo.recipe.recipe import Recipe
from zoo.training.run import TrainingRun

CLOSE = 1e-4
"""Features of base + adapter and of the trained model may differ by so much of the largest one: float32 rounding."""


def find_adapter(
    run: TrainingRun, assembled: Assembled, recipe: Recipe, registry: Registry
) -> tuple[Adapter | None, tuple[str, ...]]:
    """The adapter of a finished run, and what is to be said where there could have been one.

    Where all merged, an adapter is only there if it is true: the backbone began the last phase with the pretrained
    weights, bit by bit, and they with the adapter applied give the final model's features. Where a strategy stays a
    delta, the model is not complete without it, and what it gives must be the final model's outputs.

    Raises:
        ZooError: a strategy that stays a delta does not give its model back.
    """
    needed = [(spec, delta) for spec, delta in run.deltas if not spec.merges]
    if needed:
        made = _adapter(*needed[0], recipe, registry)
        return _not_merged(made, run, assembled), ()
    if not run.deltas:
        return None, ()
    names = " and ".join(spec.name for spec, _ in run.deltas)
    if len(run.deltas) > 1:
        return None, (f"no adapter is published by itself: {names} changed the weights together",)
    made = _adapter(*run.deltas[0], recipe, registry)
    reason = _untrue_start(run, assembled) or _untrue_end(made, run, assembled)
    return (None, (f"the {made.delta.method} adapter is not published by itself: {reason}",)) if reason else (made, ())


def _adapter(spec: StrategySpec, delta: Delta, recipe: Recipe, registry: Registry) -> Adapter:
    for component in recipe.phases[-1].strategies:
        entry = registry.strategy(component.name)
        if entry.spec == spec:
            options = parse_options(spec.options, component.options, where=spec.name)
            return Adapter(entry=entry, options=options, delta=delta)
    raise AssertionError(f"{spec.name} is not in the last phase")


def _untrue_start(run: TrainingRun, assembled: Assembled) -> str | None:
    """Why whoever has the base weights alone could not use the adapter, or None."""
    if assembled.weights is None:
        return "the backbone began with random weights, which nobody else has"
    if assembled.weights.get("kind") not in ("hub", "package"):
        return "the backbone's weights came from a local file, which nobody else has"
    if assembled.report is not None and assembled.report.initialised:
        return f"a part of the backbone was not pretrained ({assembled.report.initialised[0]})"
    for name, tensor in run.base.items():
        if name.startswith("backbone.") and not torch.equal(tensor, run.start[name]):
            return "an earlier phase had changed the backbone"
    return None


def _untrue_end(made: Adapter, run: TrainingRun, assembled: Assembled) -> str | None:
    """Why base + adapter is not the trained model, or None."""
    base = _bare(run, run.base)
    try:
        _apply(made, base, made.delta)
    except NotImplementedError:
        return f"{made.entry.name} has no apply() to try it with"
    except Exception as error:
        return f"it cannot be applied ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
    given = golden_inputs(assembled.input, base.backbone)
    trained = copy.deepcopy(run.model.backbone).cpu()
    want, have = _features(trained, given), _features(base.eval().backbone, given)
    off = max(float((a - b).abs().max()) / max(float(a.abs().max()), 1e-6) for a, b in zip(want, have, strict=True))
    return None if off <= CLOSE else f"the weights were changed after it (features are off by {off:.2g})"


def _not_merged(made: Adapter, run: TrainingRun, assembled: Assembled) -> Adapter:
    plain = _bare(run, run.model.state_dict())
    applied = copy.deepcopy(plain)
    _apply(made, applied, made.delta)
    applied.eval()
    given = golden_inputs(assembled.input, plain.backbone)
    with torch.no_grad():
        have = applied.predict(given)
        want = run.model.eval().predict(_moved(given, run.device))
    for column, values in want.items():
        expected = values.double().cpu()
        off = float((expected - have[column].double()).abs().max())
        if not off <= ATOL + RTOL * float(expected.abs().max()):
            raise ZooError(
                f"strategy {made.entry.name} does not give its model back: apply(delta) on the plain model gives "
                f"outputs that are off by {off:.2g}",
                hint=f"a fault of {made.entry.plugin.distribution}: zoo plugin check {made.entry.name}",
            )
    return Adapter(entry=made.entry, options=made.options, delta=made.delta, plain=plain, applied=applied)


def _bare(run: TrainingRun, state: Mapping[str, Tensor]) -> TransferModel:
    """A plain model on the CPU with this state's backbone and the run's head, sharing nothing with the run's model."""
    assert run.rebuild is not None
    backbone = copy.deepcopy(run.rebuild().backbone).requires_grad_(True).cpu()
    own = {n.removeprefix("backbone."): t.cpu() for n, t in state.items() if n.startswith("backbone.")}
    backbone.load_state_dict(own)
    return TransferModel(backbone, copy.deepcopy(run.model.head).cpu(), run.model.columns, run.input).eval()


def _apply(made: Adapter, model: TransferModel, delta: Delta) -> None:
    factory: Any = made.entry.factory()
    strategy = factory(made.entry.spec, made.options)
    if not overrides(strategy, "apply"):
        raise NotImplementedError
    on_cpu = {name: tensor.detach().cpu().clone() for name, tensor in delta.tensors.items()}
    strategy.apply(model, Delta(method=delta.method, tensors=on_cpu, config=copy.deepcopy(dict(delta.config))))


@torch.no_grad()
def _features(backbone: Any, given: Any) -> list[Tensor]:
    found = backbone.eval()(given)
    return [tensor.double() for tensor in (found if isinstance(found, list | tuple) else [found])]


def _moved(given: Any, device: torch.device) -> Any:
    return {k: _moved(v, device) for k, v in given.items()} if isinstance(given, Mapping) else given.to(device)
