"""The probe: the head learns on frozen features."""

from __future__ import annotations

from zoo_registry import NoOptions, Run, Strategy, StrategySpec, TransferModel


class LinearProbe(Strategy):
    """The backbone is frozen, parameters and BatchNorm statistics, and the head learns, whichever head it is.

    Kornblith et al., Do Better ImageNet Models Transfer Better?, CVPR 2019 (arXiv 1805.08974), compare it with
    fine-tuning on twelve data sets. It touches neither input nor backbone, so features may be computed once.
    """

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Freeze the whole backbone."""
        model.freeze()


def build(spec: StrategySpec, options: NoOptions) -> LinearProbe:
    """The strategy ``linear``."""
    return LinearProbe()
