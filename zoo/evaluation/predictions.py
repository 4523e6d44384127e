"""Running a model over a split: every readable sample exactly once, in order, under the evaluation view."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo.data.bad import BadRow
from zoo.evaluation.running import Feed, Readback, iterate_batches

if TYPE_CHECKING:
    from zoo.assembly.model import TransferModel
    from zoo.data.dataset import Split
    from zoo.training.pipeline import Pipeline

__all__ = ["Collector", "Predictions", "head_threshold", "iterate_batches", "predict_features", "predict_split"]

THRESHOLD = 0.5
"""Probability from which on a label of a multilabel column is predicted, where the head does not say another."""


def head_threshold(model: TransferModel) -> float:
    """The threshold of the model's head, :data:`THRESHOLD` where it has none."""
    return float(getattr(model.head, "threshold", THRESHOLD))


@dataclass
class Predictions:
    """What a model says of a split.

    Attributes:
        indices: the samples that were readable, in order.
        scores: column -> float32 [N, C] probabilities, or [N] values for regression; row i belongs to ``indices[i]``.
        bad: rows of the samples that were not.
        features: [N, ...] on the device, where they were asked for; a list of them for a pyramid.
        threshold: the head's own, from which on a multilabel label counts as predicted.
        abstains: whether the head may abstain, which it does by a row of zeros.
        measured: column -> name -> float64 [N], what the head's own ``metrics`` say of each sample, NaN where it has no
            label.
    """

    indices: list[int]
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    bad: list[BadRow] = field(default_factory=list)
    features: Any = None
    threshold: float = THRESHOLD
    abstains: bool = False
    measured: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def predict_split(
    model: TransferModel,
    split: Split,
    pipeline: Pipeline,
    *,
    batch_size: int = 64,
    workers: int | None = 0,
    features_only: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Predict every sample of the split. The model's mode is the caller's business.

    Args:
        model: on its device.
        split: what to predict.
        pipeline: the model's input side.
        batch_size: samples at once.
        workers: processes that decode; None decides by timing the first batches.
        features_only: stop at the backbone and return the features.
        progress: told the number of samples of each batch.
    """
    found, collector = _empty(model, []), Collector(model, split)
    features: list[Any] = []
    feed = pipeline.feed if features_only else Feed(pipeline)  # features may be the input itself
    for loaded in iterate_batches(split, pipeline, batch_size=batch_size, workers=workers):
        found.bad += loaded.bad
        if loaded.ids:
            found.indices += loaded.ids
            with torch.no_grad():
                output = model.backbone(feed(loaded.views["eval"]))
                if features_only:
                    features.append(output)
                else:
                    collector.take(output, loaded.ids)
        if progress is not None:
            progress(len(loaded.ids) + len(loaded.bad))
    found.scores, found.measured = collector.result()
    found.features = join_features(features) if features else None
    return found


def predict_features(
    model: TransferModel, split: Split, features: Any, indices: list[int], *, batch_size: int = 64
) -> Predictions:
    """Predict from features that were computed before, row i of which belongs to sample ``indices[i]`` of the split."""
    found, collector = _empty(model, indices), Collector(model, split)
    with torch.no_grad():
        for rows in torch.arange(len(indices)).split(batch_size):
            collector.take(pick_features(features, rows), [indices[row] for row in rows.tolist()])
    found.scores, found.measured = collector.result()
    return found


def _empty(model: TransferModel, indices: list[int]) -> Predictions:
    return Predictions(
        indices=indices, threshold=head_threshold(model), abstains=bool(getattr(model.head, "abstains", False))
    )


def join_features(parts: list[Any]) -> Any:
    """Features of batches, one behind the other: tensors [B, ...], or for a pyramid lists of them."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return [torch.cat(levels) for levels in zip(*parts, strict=True)]


def pick_features(features: Any, rows: Tensor) -> Any:
    """These rows of features [N, ...], or of every level of a pyramid."""
    if isinstance(features, Tensor):
        return features[rows.to(features.device)]
    return [pick_features(level, rows) for level in features]


class Collector:
    """Gathers, batch by batch, what a head says of samples, and what its own ``metrics`` make of it.

    Args:
        model: its head is asked.
        split: where the targets are; it may have none.
    """

    def __init__(self, model: TransferModel, split: Split) -> None:
        self.head: Any = model.head
        self.metrics = getattr(model.head, "metrics", None) if split.encoded else None
        self.targets: Mapping[str, Tensor] = split.targets if self.metrics is not None else {}
        self.scores: dict[str, list[np.ndarray]] = {}
        self._running: Readback | None = None
        self.measured: dict[str, dict[str, list[np.ndarray]]] = {}

    def take(self, features: Any, ids: list[int]) -> None:
        """Add the samples ``ids`` of the split with these features."""
        outputs = self.head(features)
        before, self._running = self._running, Readback(self.head.decode(outputs))
        self._read(before)
        if self.metrics is None:
            return
        device = next(iter(outputs.values())).device
        targets = {column: values[ids].to(device) for column, values in self.targets.items()}
        for column, found in self.metrics(outputs, targets).items():
            rows = self.measured.setdefault(column, {})
            for name, values in found.items():
                rows.setdefault(name, []).append(values.double().cpu().numpy())

    def _read(self, found: Readback | None) -> None:
        for column, values in (found.arrays() if found is not None else {}).items():
            self.scores.setdefault(column, []).append(values)

    def result(self) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
        """``scores`` and ``measured`` of :class:`Predictions`."""
        before, self._running = self._running, None
        self._read(before)
        scores = {column: np.concatenate(parts) for column, parts in self.scores.items()}
        measured = {c: {n: np.concatenate(p) for n, p in found.items()} for c, found in self.measured.items()}
        return scores, measured
