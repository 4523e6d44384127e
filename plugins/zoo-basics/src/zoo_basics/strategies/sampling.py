"""What the strategies that weigh samples share: the column they go by, and weights of classes as weights of samples."""

from __future__ import annotations

import torch
from torch import Tensor
from zoo_registry import Column, Run, UsageError
from zoo_registry.errors import did_you_mean

KINDS = ("classification", "multilabel")


def class_column(run: Run, wanted: str | None, strategy: str) -> Column:
    """The column called ``wanted``, or else the first with classes (classification before multilabel).

    Raises:
        UsageError: there is no such column.
    """
    fitting = sorted((c for c in run.columns if c.kind in KINDS and c.classes), key=lambda c: KINDS.index(c.kind))
    names = [column.name for column in fitting]
    if not fitting:
        raise UsageError(f"strategy {strategy!r} goes by classes, and no column of the data has any")
    if wanted is not None and wanted not in names:
        hint = did_you_mean(wanted, names) or f"columns with classes: {', '.join(names)}"
        raise UsageError(f"strategy {strategy!r}: no column {wanted!r} with classes", hint=hint)
    return fitting[0] if wanted is None else fitting[names.index(wanted)]


def memberships(targets: Tensor, classes: int) -> Tensor:
    """How much each sample belongs to each class, [N, C], and to none of them, the last of [N, C + 1].

    Args:
        targets: integer [N] or shares [N, C], or 0/1 [N, C] for multilabel; negative, or rows of NaN, where missing.

    Returns:
        Float64; rows of NaN where the label (of a multilabel sample: every label) is missing.
    """
    if targets.is_floating_point():
        missing = targets.isnan().all(1)
        members = targets.double().nan_to_num(nan=0.0)
    else:
        missing = targets < 0
        members = torch.nn.functional.one_hot(targets.clamp(min=0), classes).double()
    none = (members.sum(1, keepdim=True) == 0).double()
    return torch.cat([members, none], 1).masked_fill(missing[:, None], torch.nan)


def sample_weights(members: Tensor, weights: Tensor, *, rarest: bool) -> Tensor:
    """Weights [N] of samples from those of their classes, [C + 1].

    The largest among the sample's classes where ``rarest`` (multilabel), else the mean by membership. Samples without
    a label get the mean of the others.

    Args:
        members: [N, C + 1], see :func:`memberships`.
        weights: of the classes, and of none of them.
    """
    known = ~members.isnan().any(1)
    each = members.nan_to_num(nan=0.0) * weights
    found = each.amax(1) if rarest else each.sum(1) / members.nan_to_num(nan=0.0).sum(1).clamp(min=1e-12)
    mean = found[known].mean() if bool(known.any()) else torch.ones((), dtype=found.dtype)
    return torch.where(known, found, mean)
