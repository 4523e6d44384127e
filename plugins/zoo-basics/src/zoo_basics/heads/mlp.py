"""The multi-layer head, for features that no plane separates."""

from __future__ import annotations

from torch import Tensor, nn
from zoo_registry import Column, HeadSpec

from zoo_basics.heads.columns import ClassificationHead, output_layer
from zoo_basics.options.heads import MlpOptions

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}


class MlpHead(ClassificationHead):
    """``h = dropout(activation(W h + b))`` for each hidden layer from ``h = f``, then one linear layer and softmax.

    Args:
        width: D of the features [B, D].
        targets: columns of the kind classification; they share the hidden layers.
        options: width and number of the hidden layers, dropout, activation.

    Hidden layers are drawn by torch's default, the last one is normal with standard deviation 0.01, biases zero.
    It is no single linear layer, so there is no ``fold``.
    """

    def __init__(self, width: int, targets: tuple[Column, ...], options: MlpOptions) -> None:
        super().__init__(targets)
        layers: list[nn.Module] = []
        for inputs in [width] + [options.hidden] * (options.layers - 1):
            layers += [
                nn.Linear(inputs, options.hidden),
                ACTIVATIONS[options.activation](),
                nn.Dropout(options.dropout),
            ]
        self.hidden = nn.Sequential(*layers)
        self.layer = output_layer(options.hidden, sum(self.sizes))

    def flat(self, features: Tensor) -> Tensor:
        """Logits of all columns, [B, K]."""
        logits: Tensor = self.layer(self.hidden(features))
        return logits


def build(spec: HeadSpec, options: MlpOptions, *, width: int, targets: tuple[Column, ...]) -> MlpHead:
    """The head ``mlp``."""
    return MlpHead(width, targets, options)
