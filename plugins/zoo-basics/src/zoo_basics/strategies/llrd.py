"""Layer-wise learning-rate decay: the nearer to the input, the slower."""

from __future__ import annotations

from zoo_registry import ParameterGroup, Run, Strategy, StrategySpec, TransferModel

from zoo_basics.options.tuning import LlrdOptions
from zoo_basics.strategies.parts import backbone_parameters, counted_blocks, under


class Llrd(Strategy):
    """``rate_d = rate * max(decay^d, floor)``, ``d`` the depth of a block from the head: 0 the head, 1 the last block.

    Howard and Ruder, Universal Language Model Fine-tuning for Text Classification, ACL 2018 (arXiv 1801.06146), call
    it discriminative fine-tuning; ELECTRA (Clark et al., ICLR 2020, arXiv 2003.10555) and BEiT (Bao et al., ICLR 2022,
    arXiv 2106.08254) use the form with one factor a layer. What is near the input is general and should move little.

    A block without any matrix (the final norm of a ViT) adds no depth: it has the rate of what is behind it, so the
    last norm learns as fast as the head, as in BEiT. All parameters of backbone and head are listed, frozen and
    injected ones too (LoRA's factors lie under their block's prefix), so that it goes with any tuning.

    Args:
        options: ``decay`` and ``floor``.
    """

    def __init__(self, options: LlrdOptions) -> None:
        self.decay, self.floor = options.decay, options.floor

    def factor(self, depth: int) -> float:
        """The share of the full rate at a depth from the head."""
        return max(self.decay**depth, self.floor)

    def parameter_groups(self, model: TransferModel, rate: float) -> list[ParameterGroup]:
        """A group for each block, stem first, then the head; what no block covers learns with the last block."""
        left, blocks = dict(backbone_parameters(model)), model.blocks()
        groups = []
        for block, depth in depths(model).items():
            inside = [name for name in left if under(name, blocks[block])]
            groups.append(ParameterGroup(params=[left.pop(n) for n in inside], rate=rate * self.factor(depth)))
        groups.append(ParameterGroup(params=list(left.values()), rate=rate * self.factor(1)))
        return [*groups, ParameterGroup(params=list(model.head.parameters()), rate=rate)]

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """The factor and the slowest rate."""
        deepest = max(depths(model).values(), default=0)
        return (
            f"each block learns at {self.decay:g} times the rate of the block behind it, the head at the full rate, "
            f"the first block at {self.factor(deepest):.3g} of it",
        )


def depths(model: TransferModel) -> dict[str, int]:
    """Block name -> number of counted blocks from it to the head, itself included where it counts; stem first."""
    counted = set(counted_blocks(model))
    depth, found = 0, {}
    for block in reversed(list(model.blocks())):
        depth += block in counted
        found[block] = depth
    return dict(reversed(found.items()))


def build(spec: StrategySpec, options: LlrdOptions) -> Llrd:
    """The strategy ``llrd``."""
    return Llrd(options)
