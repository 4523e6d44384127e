"""Features that earlier runs kept, for an evaluation of a model with the same backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from zoo.data.bad import BadRow
from zoo.determinism import reproducible
from zoo.evaluation.predictions import Predictions, pick_features, predict_features
from zoo.features.bank import EXACT, drawing_of, moved, pass_setup
from zoo.features.keys import backbone_key, sample_hashes
from zoo.features.store import FeatureStore

if TYPE_CHECKING:
    from zoo.assembly.model import TransferModel
    from zoo.data.dataset import Split
    from zoo.training.pipeline import Pipeline


def predict_known(
    model: TransferModel, split: Split, pipeline: Pipeline, *, batch_size: int = 64
) -> Predictions | None:
    """Predictions from features on the disk; None where not those of every sample of the split are there.

    The features were computed from the same weights, pixels and code, perhaps in other batches than a pass over this
    split alone would use, so they agree with it to float32's last digits.

    Args:
        model: on its device, in evaluation mode.
        split: what to predict.
        pipeline: the model's input side.
        batch_size: samples at once.
    """
    store = FeatureStore(limit=0)
    known = backbone_key(model.backbone) if store.root.is_dir() else None
    if known is None or not store.knows(known):
        return None
    with reproducible():  # as in the runs that kept them
        drawing = drawing_of(EXACT)
        setup = pass_setup(model.backbone, pipeline, split.decoder, pipeline.transform(EXACT), drawing)
    hashes = sample_hashes(split) if setup is not None else None
    found = store.superset(known, setup, hashes) if setup is not None and hashes else None
    if found is None:
        return None
    entry, places = found
    rows, reasons = {place: row for row, place in enumerate(entry.rows)}, dict(entry.bad)
    good = [index for index, place in enumerate(places) if place in rows]
    features: Any = pick_features(entry.features, torch.tensor([rows[places[i]] for i in good], dtype=torch.long))
    predictions = predict_features(model, split, moved(features, pipeline.device), good, batch_size=batch_size)
    bad = [(index, place) for index, place in enumerate(places) if place not in rows]
    predictions.bad = [BadRow(split.name, split.ids[index], reasons[place]) for index, place in bad]
    return predictions
