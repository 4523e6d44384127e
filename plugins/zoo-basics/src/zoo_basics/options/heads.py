"""The options of the heads: one schema each for the command line, recipes, saved files and docs."""

from __future__ import annotations

from dataclasses import dataclass

from zoo_registry import option


def _dropout() -> float:
    """The option that several heads share."""
    value: float = option(0.0, help="share of the features zeroed in training", low=0.0, high=0.95)
    return value


def _threshold() -> float:
    """The option of heads that predict any number of labels."""
    value: float = option(0.5, help="probability from which on a label is predicted", low=0.0, high=1.0)
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
    threshold: float = _threshold()
    loss: str = option("bce", help="binary cross-entropy, or asl, the asymmetric loss", choices=("bce", "asl"))
    gamma_negative: float = option(4.0, help="asl: exponent that plays down easy negatives", low=0.0, high=16.0)
    gamma_positive: float = option(0.0, help="asl: exponent that plays down easy positives", low=0.0, high=16.0)
    shift: float = option(0.05, help="asl: negatives of a smaller probability count nothing", low=0.0, high=0.9)


@dataclass(frozen=True, kw_only=True)
class RegressionOptions:
    """Options of the head ``regression``."""

    loss: str = option("mse", help="loss, of values in standard deviations of train", choices=("mse", "huber", "l1"))
    delta: float = option(1.0, help="where huber turns linear, in standard deviations", low=0.001, high=1000)
    dropout: float = _dropout()


@dataclass(frozen=True, kw_only=True)
class RidgeOptions:
    """Options of the head ``ridge``."""

    penalty: float | None = option(
        None, help="weight of the squared norm; none: the best of 21 by leave-one-out error", low=1e-12, high=1e12
    )
    scale: float | None = option(
        None, help="factor from outputs to logits; none: the best on leave-one-out predictions", low=1e-3, high=1e6
    )


@dataclass(frozen=True, kw_only=True)
class KnnOptions:
    """Options of the head ``knn``."""

    k: int = option(10, help="number of neighbours", low=1, high=1000)
    metric: str = option("cosine", help="distance between features", choices=("cosine", "euclidean"))
    weights: str = option(
        "softmax", help="how much a neighbour counts, by its distance", choices=("softmax", "distance", "uniform")
    )
    temperature: float | None = option(
        None, help="of softmax weights: smaller trusts the nearest more; none: 0.07, euclidean 0.1", low=1e-4, high=1e4
    )
    quantile: float | None = option(
        0.99,
        help="abstain where the k-th neighbour is further than for this share of train, each left out; none: never",
        low=0.0,
        high=1.0,
    )
    radius: float | None = option(
        None, help="abstain beyond this distance of the k-th neighbour, in place of the quantile's", low=0.0, high=1e9
    )


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """Options of the head ``attention``."""

    queries: int = option(1, help="learned queries; each gives one pooled vector", low=1, high=64)
    heads: int = option(4, help="attention heads, a divisor of the number of features", low=1, high=64)
    dropout: float = option(0.0, help="share of the pooled features zeroed in training", low=0.0, high=0.95)


@dataclass(frozen=True, kw_only=True)
class OrdinalOptions:
    """Options of the head ``ordinal``."""

    method: str = option(
        "corn", help="a direction for each step (corn), or one with thresholds (coral)", choices=("corn", "coral")
    )
    order: tuple[str, ...] = option((), help="class names, lowest first; not needed where numbers tell")
    dropout: float = _dropout()


@dataclass(frozen=True, kw_only=True)
class MultiTaskOptions:
    """Options of the head ``multi-task``."""

    weighting: str = option(
        "uncertainty", help="learned weights of the columns' losses, or equal ones", choices=("uncertainty", "equal")
    )
    regression: str = option("mse", help="loss of regression columns", choices=("mse", "huber", "l1"))
    multilabel: str = option("bce", help="loss of multilabel columns", choices=("bce", "asl"))
    threshold: float = _threshold()
    dropout: float = _dropout()
