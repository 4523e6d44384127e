"""Parameter groups and the optimiser of a phase."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from zoo_registry import ParameterGroup, ZooError
from zoo_registry.strategy import overrides

from zoo.training.run import Phase


def default_groups(module: nn.Module, rate: float, decay: float) -> list[ParameterGroup]:
    """Every parameter of the module, frozen ones included (they have no gradient and are skipped): one rate.

    Biases, normalisation weights and other vectors get no weight decay.
    """
    parameters = list(module.parameters())
    return [
        ParameterGroup(params=[p for p in parameters if p.ndim > 1], rate=rate, decay=decay),
        ParameterGroup(params=[p for p in parameters if p.ndim <= 1], rate=rate, decay=0.0),
    ]


def phase_groups(model: Any, phase: Phase) -> list[ParameterGroup]:
    """The groups of the strategy that owns the rates, or the default ones; what is auxiliary and in none is added.

    Raises:
        ZooError: a parameter is in two groups.
    """
    rate, decay = float(phase.recipe.rate or 0.0), float(phase.recipe.decay or 0.0)
    owner = next((s for s in phase.strategies if overrides(s, "parameter_groups")), None)
    if owner is not None:
        groups = list(owner.parameter_groups(model, rate))
    else:
        groups = [*default_groups(nn.ModuleList([model.backbone, model.head]), rate, decay)]
    claimed = [id(p) for group in groups for p in group["params"]]
    if len(claimed) != len(set(claimed)):
        raise ZooError(f"phase {phase.recipe.label()!r}: a parameter is in two parameter groups")
    known = set(claimed)
    for group in default_groups(model.auxiliary, rate, decay):
        rest = [p for p in group["params"] if id(p) not in known]
        groups.append(ParameterGroup(params=rest, rate=group["rate"], decay=group["decay"]))
    return [group for group in groups if group["params"]]


def make_optimiser(groups: list[ParameterGroup]) -> torch.optim.Optimizer | None:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) over the groups; None where there are none."""
    settings = [{"params": g["params"], "lr": g["rate"], "weight_decay": g["decay"]} for g in groups]
    return torch.optim.AdamW(settings) if settings else None
