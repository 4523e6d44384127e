"""Which parameters belong to which part of a model: what the strategies that choose parts share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn
from zoo_registry import TransferModel, UsageError


def under(name: str, prefixes: Sequence[str]) -> bool:
    """Whether the parameter or module ``name`` is, or lies under, one of ``prefixes``."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def backbone_parameters(model: TransferModel) -> Iterator[tuple[str, nn.Parameter]]:
    """The backbone's parameters with their names in the model's state dict, injected ones too."""
    return model.backbone.named_parameters(prefix="backbone")


def counted_blocks(model: TransferModel) -> list[str]:
    """The names of the blocks that hold a matrix (a parameter of two or more axes), stem first.

    The final norm of a ViT, a block without one, is not counted: it goes with the blocks around it.
    """
    matrices = [name for name, parameter in backbone_parameters(model) if parameter.ndim > 1]
    return [name for name, prefixes in model.blocks().items() if any(under(matrix, prefixes) for matrix in matrices)]


def last_blocks(model: TransferModel, count: int, strategy: str) -> list[str]:
    """The names of the last blocks with ``count`` counted ones among them; all blocks where that is all that count.

    Raises:
        UsageError: there are fewer; ``strategy`` is the name that the error gives.
    """
    counted, names = counted_blocks(model), list(model.blocks())
    if count > len(counted):
        raise UsageError(
            f"strategy {strategy!r}: blocks={count}, but the backbone has {len(counted)}: {', '.join(counted)}",
            hint="take fewer blocks, or strategy 'full'",
        )
    if count == len(counted):
        return names
    return names[names.index(counted[-count]) :] if count else []
