"""Partial fine-tuning: the last blocks learn."""

from __future__ import annotations

from zoo_registry import Run, Strategy, StrategySpec, TransferModel

from zoo_basics.options.tuning import PartialOptions
from zoo_basics.strategies.parts import last_blocks


class Partial(Strategy):
    """The last ``blocks`` blocks of the backbone and the head learn, the rest is frozen, BatchNorm statistics too.

    Yosinski et al., How transferable are features in deep neural networks?, NeurIPS 2014 (arXiv 1411.1792): the
    deeper a layer, the more it belongs to its first task.

    A block without any matrix, as the final norm of a ViT, is not counted: it learns with the blocks around it, so
    ``blocks=1`` of a ViT is the last transformer block and the norm behind it.

    Args:
        options: ``blocks``, how many.
    """

    def __init__(self, options: PartialOptions) -> None:
        self.count = options.blocks

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Freeze all but the last blocks.

        Raises:
            UsageError: the backbone has fewer blocks.
        """
        learning = last_blocks(model, self.count, "partial")
        model.freeze(name for name in model.blocks() if name not in learning)
        model.unfreeze(learning)


def build(spec: StrategySpec, options: PartialOptions) -> Partial:
    """The strategy ``partial``."""
    return Partial(options)
