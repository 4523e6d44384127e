"""Golden logits: what the model says of two drawn inputs, so that a loaded copy can prove to be the same model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from zoo_registry import ImageInput, Input, IntegrityError, TextInput, ZooError

if TYPE_CHECKING:
    from zoo.assembly.model import TransferModel

DRAWING = "waves-1"
SENTENCES = ("Sphinx of black quartz, judge my vow.", "A second line: 3.14, naïve?")
"""What is said to a model that reads text, through its own transform."""
RTOL, ATOL = 1e-3, 1e-4
"""Tolerance between two CPUs in float32: ``|a - b| <= atol + rtol * max|b|``."""


def golden_inputs(input: Input, backbone: nn.Module | None = None) -> Any:
    """Two inputs, the same everywhere.

    For images float32 [2, C, H, W] as they come after normalisation, sums of sines computed in float64:
    ``x[n, c, i, j] = sin(i (n + 2) / 7 + c) + cos(j (c + 2) / 5 + n)``. For text :data:`SENTENCES` as the backbone's
    own transform and collation turn them into tensors.

    Raises:
        ZooError: nothing is drawn for this kind of input.
    """
    if isinstance(input, TextInput) and backbone is not None:
        transform, collate = backbone.transform(input, False), backbone.collate
        return collate([transform(sentence, torch.Generator().manual_seed(0)) for sentence in SENTENCES])
    if not isinstance(input, ImageInput):
        raise ZooError(f"no golden inputs are drawn for {input.kind}", hint="publishing serves images and text so far")
    n, c, i, j = np.ogrid[0:2, 0 : input.channels, 0 : input.size[0], 0 : input.size[1]]
    waves = np.sin(i * (n + 2) / 7 + c) + np.cos(j * (c + 2) / 5 + n)
    return torch.from_numpy(waves.astype(np.float32))


@torch.no_grad()
def golden_outputs(model: TransferModel, input: Input) -> dict[str, list[Any]]:
    """Column -> outputs (logits, or values) for the golden inputs, as plain numbers; the model is on the CPU."""
    training = model.training
    model.eval()
    outputs = model.predict(golden_inputs(input, model.backbone))
    model.train(training)
    return {column: values.double().tolist() for column, values in outputs.items()}


def check_golden(model: TransferModel, input: Input, recorded: Mapping[str, Any], *, where: str) -> float:
    """Compare with what was recorded; returns the largest difference.

    Raises:
        IntegrityError: the model's outputs are outside the tolerance.
    """
    if recorded.get("drawing") != DRAWING:
        raise IntegrityError(f"{where}: golden inputs {recorded.get('drawing')!r:.60} are not known to this version")
    found, outputs = golden_outputs(model, input), recorded.get("outputs")
    if not isinstance(outputs, dict) or set(outputs) != set(found):
        raise IntegrityError(f"{where}: there are no golden outputs for the columns {', '.join(found)} and no other")
    return max(_difference(column, outputs[column], found[column], where) for column in found)


def _difference(column: str, expected: Any, found: list[Any], where: str) -> float:
    """Largest difference of one column's outputs; a NaN on either side is no agreement."""
    try:
        want = np.asarray(expected, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise IntegrityError(f"{where}: golden outputs of {column!r} are not numbers") from error
    have = np.asarray(found, dtype=np.float64)
    if want.shape != have.shape:
        raise IntegrityError(f"{where}: golden outputs of {column!r} have shape {want.shape}, found {have.shape}")
    difference = float(np.abs(want - have).max())
    if not difference <= ATOL + RTOL * float(np.abs(want).max()):
        raise IntegrityError(
            f"{where}: the model does not reproduce its golden logits (column {column!r}, off by {difference:.3g})",
            hint="the bundle was edited, or a plugin changed what it builds",
        )
    return difference


def golden_record(model: TransferModel, input: Input) -> dict[str, Any]:
    """What ``zoo.json`` keeps."""
    return {"drawing": DRAWING, "rtol": RTOL, "atol": ATOL, "outputs": golden_outputs(model, input)}
