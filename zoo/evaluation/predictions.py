"""Running a model over a split: every readable sample exactly once, in order, under the evaluation view."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo.data.bad import BadRow
from zoo.data.loader import LoadedBatch, ViewLoader, in_order

if TYPE_CHECKING:
    from zoo.assembly.model import TransferModel
    from zoo.data.dataset import Split
    from zoo.training.pipeline import Pipeline

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
    """

    indices: list[int]
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    bad: list[BadRow] = field(default_factory=list)
    features: Any = None
    threshold: float = THRESHOLD


def iterate_batches(split: Split, pipeline: Pipeline, *, batch_size: int, workers: int = 0) -> Iterator[LoadedBatch]:
    """Loaded batches of the whole split in order under the evaluation view (``views["eval"]``, ``ids``, ``bad``)."""
    views = {"eval": pipeline.transform("eval")}
    with ViewLoader(split, views, stream="eval", workers=workers, **pipeline.loader_options) as loader:
        yield from loader.batches(in_order(len(split), batch_size))


def predict_split(
    model: TransferModel,
    split: Split,
    pipeline: Pipeline,
    *,
    batch_size: int = 64,
    workers: int = 0,
    features_only: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Predict every sample of the split. The model's mode is the caller's business.

    Args:
        model: on its device.
        split: what to predict.
        pipeline: the model's input side.
        batch_size: samples at once.
        workers: processes that decode.
        features_only: stop at the backbone and return the features.
        progress: told the number of samples of each batch.
    """
    found = Predictions(indices=[], threshold=head_threshold(model))
    scores: dict[str, list[np.ndarray]] = {}
    features: list[Any] = []
    for loaded in iterate_batches(split, pipeline, batch_size=batch_size, workers=workers):
        found.bad += loaded.bad
        if loaded.ids:
            found.indices += loaded.ids
            with torch.no_grad():
                output = model.backbone(pipeline.feed(loaded.views["eval"]))
                if features_only:
                    features.append(output)
                else:
                    _collect(model, output, scores)
        if progress is not None:
            progress(len(loaded.ids) + len(loaded.bad))
    found.scores = {column: np.concatenate(parts) for column, parts in scores.items()}
    found.features = join_features(features) if features else None
    return found


def predict_features(model: TransferModel, features: Any, indices: list[int], *, batch_size: int = 64) -> Predictions:
    """Predict from features that were computed before, row i of which belongs to sample ``indices[i]``."""
    scores: dict[str, list[np.ndarray]] = {}
    with torch.no_grad():
        for rows in torch.arange(len(indices)).split(batch_size):
            _collect(model, pick_features(features, rows), scores)
    joined = {column: np.concatenate(parts) for column, parts in scores.items()}
    return Predictions(indices=indices, scores=joined, threshold=head_threshold(model))


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


def _collect(model: TransferModel, features: Any, scores: dict[str, list[np.ndarray]]) -> None:
    decoded = model.head.decode(model.head(features))
    for column, values in decoded.items():
        scores.setdefault(column, []).append(values.float().cpu().numpy())
