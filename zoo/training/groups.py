"""Parameter groups and the optimiser of a phase."""

from __future__ import annotations

from typing import Any

import torch
from zoo_registry import ParameterGroup, ZooError
from zoo_registry.strategy import overrides

from zoo.training.run import Phase


def decayed(group: ParameterGroup, decay: float) -> list[ParameterGroup]:
    """The group as it is where it names its weight decay; else ``decay`` on matrices and kernels, none on vectors.

    Vectors are biases and the weights of normalisation layers.
    """
    if "decay" in group:
        return [group]
    matrices = [p for p in group["params"] if p.ndim > 1]
    vectors = [p for p in group["params"] if p.ndim <= 1]
    return [
        ParameterGroup(params=matrices, rate=group["rate"], decay=decay),
        ParameterGroup(params=vectors, rate=group["rate"], decay=0.0),
    ]


def phase_groups(model: Any, phase: Phase) -> list[ParameterGroup]:
    """The groups of the strategy that owns the rates, or all of backbone and head at one rate; then what is auxiliary.

    Frozen parameters are in them too: they have no gradient and are skipped.

    Raises:
        ZooError: a parameter is in two groups.
    """
    rate, decay = float(phase.recipe.rate or 0.0), float(phase.recipe.decay or 0.0)
    owner = next((s for s in phase.strategies if overrides(s, "parameter_groups")), None)
    if owner is not None:
        groups = list(owner.parameter_groups(model, rate))
    else:
        groups = [ParameterGroup(params=[*model.backbone.parameters(), *model.head.parameters()], rate=rate)]
    claimed = [id(p) for group in groups for p in group["params"]]
    if len(claimed) != len(set(claimed)):
        raise ZooError(f"phase {phase.recipe.label()!r}: a parameter is in two parameter groups")
    known = set(claimed)
    rest = [p for p in model.auxiliary.parameters() if id(p) not in known]
    groups.append(ParameterGroup(params=rest, rate=rate))
    return [part for group in groups for part in decayed(group, decay) if part["params"]]


def make_optimiser(groups: list[ParameterGroup], *, fused: bool = False) -> torch.optim.Optimizer | None:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) over the groups; None where there are none.

    With ``fused`` a step is one kernel, which rounds differently in the last bits.
    """
    settings = [{"params": g["params"], "lr": g["rate"], "weight_decay": g["decay"]} for g in groups]
    return torch.optim.AdamW(settings, fused=fused or None) if settings else None
