"""Fine-tuning: everything learns."""

from __future__ import annotations

from zoo_registry import NoOptions, Run, Strategy, StrategySpec, TransferModel


class Full(Strategy):
    """Backbone and head learn, BatchNorm statistics follow.

    Girshick et al., Rich feature hierarchies for accurate object detection and semantic segmentation, CVPR 2014 (arXiv
    1311.2524). After a linear probe (``linear:3,full:10``) it is LP-FT, which distorts the features less: Kumar et al.,
    Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution, ICLR 2022 (arXiv 2202.10054).
    """

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Thaw the whole backbone."""
        model.unfreeze()


def build(spec: StrategySpec, options: NoOptions) -> Full:
    """The strategy ``full``."""
    return Full()
