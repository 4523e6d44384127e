"""Partial fine-tuning: the last blocks learn."""

from __future__ import annotations

from collections.abc import Sequence

from zoo_registry import Run, Strategy, StrategySpec, TransferModel, UsageError

from zoo_basics.options.tuning import PartialOptions


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
        learning = last_blocks(model, self.count)
        model.freeze(name for name in model.blocks() if name not in learning)
        model.unfreeze(learning)


def last_blocks(model: TransferModel, count: int) -> list[str]:
    """The names of the last blocks with ``count`` among them that hold a matrix (a parameter of two or more axes).

    Raises:
        UsageError: there are fewer.
    """
    blocks = model.blocks()
    matrices = [name for name, parameter in model.backbone.named_parameters(prefix="backbone") if parameter.ndim > 1]
    counted = [name for name, prefixes in blocks.items() if any(_under(matrix, prefixes) for matrix in matrices)]
    if count > len(counted):
        raise UsageError(
            f"strategy 'partial': blocks={count}, but the backbone has {len(counted)}: {', '.join(counted)}",
            hint="take fewer blocks, or strategy 'full'",
        )
    names = list(blocks)
    return names[names.index(counted[-count]) :]


def _under(name: str, prefixes: Sequence[str]) -> bool:
    """Whether the parameter ``name`` is, or lies under, one of ``prefixes``."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def build(spec: StrategySpec, options: PartialOptions) -> Partial:
    """The strategy ``partial``."""
    return Partial(options)
