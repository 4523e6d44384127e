"""BitFit: bias terms and the head learn."""

from __future__ import annotations

from zoo_registry import NoOptions, Run, Strategy, StrategySpec, TransferModel, UsageError

from zoo_basics.strategies.parts import backbone_parameters


class BitFit(Strategy):
    """The bias terms of the backbone and the head learn; every other tensor rests, BatchNorm statistics too.

    Ben Zaken et al., BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models, ACL
    2022 (arXiv 2106.10199): about a thousandth of the parameters, close to full fine-tuning at few labels.

    A bias term is a vector whose name ends in ``bias``: of linear layers, convolutions and normalisation layers. In a
    CNN whose convolutions have none those of BatchNorm are all there are. Matrices that are called so
    (``relative_position_bias_table``) are none. The backbone is in evaluation mode: nothing in it is dropped.
    """

    def prepare(self, model: TransferModel, run: Run) -> None:
        """Freeze the backbone but for its bias terms.

        Raises:
            UsageError: it has none.
        """
        model.freeze()
        biases = [p for name, p in backbone_parameters(model) if is_bias(name, p.ndim)]
        if not biases:
            raise UsageError(
                "strategy 'bitfit': the backbone has no bias terms", hint="take 'norm', 'partial' or 'linear'"
            )
        for bias in biases:
            bias.requires_grad_(True)

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """How many bias terms learn."""
        biases = [p.numel() for name, p in backbone_parameters(model) if is_bias(name, p.ndim)]
        return (f"{len(biases)} bias vectors of the backbone learn, {sum(biases):,} numbers",)


def is_bias(name: str, ndim: int) -> bool:
    """Whether a parameter of this name and number of axes is a bias term."""
    return ndim <= 1 and name.rpartition(".")[2].endswith("bias")


def build(spec: StrategySpec, options: NoOptions) -> BitFit:
    """The strategy ``bitfit``."""
    return BitFit()
