"""Class-balanced sampling: rare classes are drawn more often."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from zoo_registry import Column, Run, Strategy, StrategySpec, TransferModel

from zoo_basics.options.data import ClassBalancedOptions
from zoo_basics.strategies.sampling import class_column, memberships, sample_weights


class ClassBalanced(Strategy):
    """A sample of class c is drawn with a weight of ``n_c^-power``, n_c the number of samples of its class.

    With ``power`` 1 all classes come equally often, with 0.5 by the root of their size (Mahajan et al., Exploring the
    Limits of Weakly Supervised Pretraining, 2018, arXiv 1805.00932), with 0 as they are. ``beta`` replaces n_c by the
    effective number ``(1 - beta^n_c) / (1 - beta)`` of Cui et al., Class-Balanced Loss Based on Effective Number of
    Samples, CVPR 2019 (arXiv 1901.05555), which weighs the loss by it, where this draws by it.

    A multilabel sample counts by its rarest label; one without any label is of a class of its own. Where the label is
    missing a sample has the mean weight. An epoch is as many draws with replacement as there are samples.

    Args:
        options: ``power``, ``beta``, ``column``.
    """

    def __init__(self, options: ClassBalancedOptions) -> None:
        self.power, self.beta, self.wanted = options.power, options.beta, options.column
        self._column: Column | None = None

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Find the column.

        Raises:
            UsageError: there is no such column.
        """
        self._column = class_column(run, self.wanted, "class-balanced")

    def sample_weights(self, targets: Mapping[str, Tensor], run: Run) -> Tensor:
        """Weights [N], float64."""
        column = self._column or class_column(run, self.wanted, "class-balanced")
        members = memberships(targets[column.name], column.size)
        weights = self.class_weights(members.nan_to_num(nan=0.0).sum(0))
        return sample_weights(members, weights, rarest=column.kind == "multilabel")

    def class_weights(self, counts: Tensor) -> Tensor:
        """Weights [C] of classes of ``counts`` [C] samples; 0 for classes without any."""
        sizes = counts.double()
        if self.beta is not None:
            sizes = (1 - self.beta**sizes) / (1 - self.beta)
        return torch.where(counts > 0, sizes.clamp(min=1e-12) ** -self.power, 0.0)

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """How often the rarest and the most frequent class will come."""
        column = self._column or class_column(run, self.wanted, "class-balanced")
        counts = run.class_counts[column.name].double()
        present = counts > 0
        if not bool(present.any()):
            return ()
        shares = counts * self.class_weights(counts)
        shares = shares / shares.sum()
        rare, most = int(torch.where(present, counts, torch.inf).argmin()), int(counts.argmax())
        names = column.classes
        return tuple(
            f"draws {names[i]!r}, {int(counts[i])} of {int(counts.sum())} in the data, as {shares[i]:.1%} of an epoch"
            for i in dict.fromkeys((rare, most))
        )


def build(spec: StrategySpec, options: ClassBalancedOptions) -> ClassBalanced:
    """The strategy ``class-balanced``."""
    return ClassBalanced(options)
