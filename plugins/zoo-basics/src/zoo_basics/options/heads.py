"""The options of the heads: one schema each for the command line, recipes, saved files and docs."""

from __future__ import annotations

from dataclasses import dataclass

from zoo_registry import option


def _dropout() -> float:
    """The option that several heads share."""
    value: float = option(0.0, help="share of the features zeroed in training", low=0.0, high=0.95)
    return value


@dataclass(frozen=True, kw_only=True)
class LinearOptions:
    """Options of the head ``linear``."""

    dropout: float = _dropout()


@dataclass(frozen=True, kw_only=True)
class MlpOptions:
    """Options of the head ``mlp``."""

    hidden: int = option(256, help="width of each hidden layer", low=1, high=65536)
    layers: int = option(1, help="number of hidden layers", low=1, high=16)
    dropout: float = option(0.0, help="share zeroed in training after each hidden layer", low=0.0, high=0.95)
    activation: str = option("gelu", help="non-linearity", choices=("gelu", "relu", "silu", "tanh"))


@dataclass(frozen=True, kw_only=True)
class CosineOptions:
    """Options of the head ``cosine``."""

    scale: float = option(10.0, help="factor of the cosines at the start, an inverse temperature", low=0.01, high=1000)
    learn_scale: bool = option(True, help="learn the factor too")


@dataclass(frozen=True, kw_only=True)
class PrototypeOptions:
    """Options of the head ``prototype``."""

    normalise: bool = option(False, help="bring features to length 1 first (SimpleShot's L2N); then it does not fold")
    temperature: float = option(
        1.0, help="divides the squared distances: larger is less sure, the order of classes stays", low=1e-6, high=1e6
    )


@dataclass(frozen=True, kw_only=True)
class MultilabelOptions:
    """Options of the head ``multilabel``."""

    dropout: float = _dropout()
    threshold: float = option(0.5, help="probability from which on a label is predicted", low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class RegressionOptions:
    """Options of the head ``regression``."""

    loss: str = option("mse", help="loss, of values in standard deviations of train", choices=("mse", "huber", "l1"))
    delta: float = option(1.0, help="where huber turns linear, in standard deviations", low=0.001, high=1000)
    dropout: float = _dropout()
