"""Which columns have the plain loss that an objective may replace: found by asking the head, whatever it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo_registry import Column

PROBES = 7


def plain_columns(head: nn.Module, columns: Sequence[Column]) -> dict[str, str]:
    """Column -> ``softmax`` where the head's loss is the cross-entropy of its outputs, ``sigmoid`` where it is the
    binary one, averaged over the classes; the others (regression, ordinal, a learned weighting) are left out.
    """
    found = {}
    for column in columns:
        if column.kind == "classification" and _agrees(head, column, _labels(column), _softmax):
            found[column.name] = "softmax"
        elif column.kind == "multilabel" and _agrees(head, column, _tags(column), _sigmoid):
            found[column.name] = "sigmoid"
    return found


def shift_invariant(head: nn.Module, column: Column) -> bool:
    """Whether the loss of a classification column stays where all logits rise by the same: they are log-shares."""
    logits, labels = _logits(column), _labels(column)
    one, two = (_ask(head, column, values, labels) for values in (logits, logits + 3))
    return torch.allclose(one, two, rtol=1e-3, atol=1e-4)


def _agrees(head: nn.Module, column: Column, targets: Tensor, plain: Any) -> bool:
    logits = _logits(column)
    losses = _ask(head, column, logits, targets)
    if losses.requires_grad:  # the loss has parameters of its own
        return False
    return torch.allclose(losses, plain(logits, targets), rtol=1e-3, atol=1e-4)


def _ask(head: Any, column: Column, logits: Tensor, targets: Tensor) -> Tensor:
    """The head's losses [PROBES], on the CPU."""
    tensors = [*head.parameters(), *head.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    losses: Tensor = head.loss({column.name: logits.to(device)}, {column.name: targets.to(device)})[column.name]
    return losses.float().cpu()


def _logits(column: Column) -> Tensor:
    return 2 * torch.randn(PROBES, column.size, generator=torch.Generator().manual_seed(0))


def _labels(column: Column) -> Tensor:
    return torch.arange(PROBES) % column.size


def _tags(column: Column) -> Tensor:
    return (torch.rand(PROBES, column.size, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def _softmax(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _sigmoid(logits: Tensor, tags: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, tags, reduction="none").mean(1)
