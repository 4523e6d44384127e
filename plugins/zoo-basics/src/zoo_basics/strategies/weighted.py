"""Weighted sampling: the user says how often classes and samples come."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from zoo_registry import Column, DataError, Run, Strategy, StrategySpec, TransferModel, UsageError
from zoo_registry.errors import did_you_mean

from zoo_basics.options.data import WeightedOptions, class_weight
from zoo_basics.strategies.sampling import class_column, memberships, sample_weights

EXAMPLE = "--set strategy.weighted.classes=cat=2,dog=0.5, or --set data.weight_column=NAME"


class Weighted(Strategy):
    """Samples are drawn by the product of their class's weight and their own.

    Instance weighting, as in Jiang and Zhai, Instance Weighting for Domain Adaptation in NLP, ACL 2007: what is closer
    to the task at hand counts more. Classes are weighed by ``classes`` (1 where not named), samples by the column that
    ``data.weight_column`` names. A multilabel sample has the largest weight of its labels, one without any label 1;
    where a label is missing it has the mean. An epoch is as many draws with replacement as there are samples.

    Args:
        options: ``classes``, ``column``.
    """

    def __init__(self, options: WeightedOptions) -> None:
        self.given = dict(class_weight(text) for text in options.classes)
        self.wanted = options.column
        self._column: Column | None = None

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Check the weights against the data.

        Raises:
            UsageError: no weights at all, no such column, no such class.
            DataError: every training sample has the weight 0.
        """
        if not self.given and run.weights is None:
            raise UsageError("strategy 'weighted' has no weights", hint=f"give some: {EXAMPLE}")
        if self.given:
            column = self._column = class_column(run, self.wanted, "weighted")
            for name in self.given:
                if name not in column.classes:
                    known = ", ".join(column.classes[:8]) + (", ..." if len(column.classes) > 8 else "")
                    hint = did_you_mean(name, column.classes) or f"classes: {known}"
                    raise UsageError(f"strategy 'weighted': column {column.name!r} has no class {name!r}", hint=hint)
        if not bool((self.sample_weights(run.targets, run) > 0).any()):
            raise DataError("strategy 'weighted': every training sample has the weight 0", hint=EXAMPLE)

    def sample_weights(self, targets: Mapping[str, Tensor], run: Run) -> Tensor:
        """Weights [N], float64."""
        own = torch.ones(len(next(iter(targets.values()))), dtype=torch.float64)
        if run.weights is not None:
            own = run.weights.double()
        if self._column is None:
            return own
        column = self._column
        weights = torch.tensor([*(self.given.get(name, 1.0) for name in column.classes), 1.0], dtype=torch.float64)
        members = memberships(targets[column.name], column.size)
        return own * sample_weights(members, weights, rarest=column.kind == "multilabel")

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """What is weighed."""
        lines = [f"classes count {', '.join(f'{n} {w:g}' for n, w in self.given.items())}"] if self.given else []
        if run.weights is not None:
            low, high = float(run.weights.min()), float(run.weights.max())
            lines.append(f"samples count by their column of weights, {low:g} to {high:g}")
        return tuple(lines)


def build(spec: StrategySpec, options: WeightedOptions) -> Weighted:
    """The strategy ``weighted``."""
    return Weighted(options)
