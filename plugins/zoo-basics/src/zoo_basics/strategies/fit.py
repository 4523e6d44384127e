"""No steps: the head computes itself."""

from __future__ import annotations

from typing import Any, cast

from zoo_registry import NoOptions, Run, Strategy, StrategySpec, TransferModel


class Fit(Strategy):
    """The backbone is frozen; at the phase's end the head's ``fit`` sees the features of all training samples.

    For heads with a closed form, as the class means of Snell et al. (arXiv 1703.05175). The features are those of the
    evaluation view. After other phases (``full:10,fit``) it replaces what gradients had taught the head.
    """

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Freeze the whole backbone."""
        model.freeze()

    def finish(self, model: TransferModel, run: Run) -> None:
        """``head.fit(features, targets)``; the head raises DataError where the data do not suffice."""
        features, targets = run.extract(model)
        cast(Any, model.head).fit(features, targets)


def build(spec: StrategySpec, options: NoOptions) -> Fit:
    """The strategy ``fit``."""
    return Fit()
