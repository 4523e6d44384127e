"""The default parameter groups: one rate, weight decay on matrices and kernels alone."""

from __future__ import annotations

from torch import nn
from zoo_registry import ParameterGroup


def default_groups(model: nn.Module, rate: float, decay: float) -> list[ParameterGroup]:
    """Every parameter of backbone and head, frozen ones included (they have no gradient and are skipped).

    Biases, normalisation weights and other vectors get no weight decay.
    """
    named = [(n, p) for n, p in model.named_parameters() if not n.startswith("auxiliary.")]
    matrices = [p for _, p in named if p.ndim > 1]
    vectors = [p for _, p in named if p.ndim <= 1]
    return [
        ParameterGroup(params=matrices, rate=rate, decay=decay),
        ParameterGroup(params=vectors, rate=rate, decay=0.0),
    ]
