"""``export.json``: what a user of the file must know, without the zoo and without its training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from zoo_registry import Column, ImageInput

import zoo
from zoo.bundle.golden import ATOL, RTOL
from zoo.bundle.read import LoadedModel
from zoo.exporting.checks import Checked
from zoo.exporting.program import BATCH, Deployed
from zoo.hub.files import MANIFEST, sha256_of

FORMAT = 1


def make_record(loaded: LoadedModel, module: Deployed, to: str, file: str, versions: dict[str, Any]) -> dict[str, Any]:
    """The record, without what was checked.

    Args:
        loaded: the model.
        module: what is exported of it.
        to: the format's name.
        file: the file's name.
        versions: what the format says of itself.
    """
    document, input, manifest = loaded.document, loaded.input, loaded.path / MANIFEST
    assert isinstance(input, ImageInput)
    return {
        "format": FORMAT,
        "zoo": zoo.__version__,
        "to": to,
        "file": file,
        "made_with": versions,
        "model": {
            "name": loaded.name.partition("@")[0] if loaded.revision else None,  # a path of this machine is no name
            "revision": loaded.revision,
            "manifest_sha256": sha256_of(manifest) if manifest.is_file() else None,
            "backbone": document.backbone,
            "head": document.head,
            "license": document.license_stated or document.license,
        },
        "input": describe_input(input, module),
        "transform": {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(input).items()},
        "outputs": [describe_output(column, module, document.columns) for column in document.columns],
    }


def describe_input(input: ImageInput, module: Deployed) -> dict[str, Any]:
    """Name, type, shape and meaning of the input."""
    colours = "RGB" if input.channels == 3 else f"{input.channels} channels"
    made = f"{colours}, resized and cropped as `transform` says"
    return {
        "name": module.form.input_name,
        "dtype": "uint8" if module.form.pixels else "float32",
        "shape": [BATCH, input.channels, *input.size],
        "values": f"0 to 255, {made}; normalised within"
        if module.form.pixels
        else f"(x / 255 - mean) / std of x in 0 to 255, {made}",
    }


def describe_output(column: Column, module: Deployed, columns: Sequence[Column]) -> dict[str, Any]:
    """Name, shape, classes and meaning of a column's output."""
    head = module._origin[0]
    regression = column.kind == "regression"
    values = "values" if regression else "probabilities" if module.form.probabilities else "logits"
    found: dict[str, Any] = {
        "name": module.names[column.name],
        "column": column.name,
        "kind": column.kind,
        "classes": list(column.classes),
        "dtype": "float32",
        "shape": [BATCH] if regression else [BATCH, column.size],
        "values": values,
    }
    if values == "logits":
        found["probabilities"] = activation(head, column, columns)
    if column.kind == "multilabel":
        found["threshold"] = float(getattr(head, "threshold", 0.5))
    if getattr(head, "abstains", False):
        found["abstains"] = "a row of zeros" if module.form.probabilities else "not told by logits"
    return found


@torch.no_grad()
def activation(head: nn.Module, column: Column, columns: Sequence[Column]) -> str | None:
    """``softmax`` or ``sigmoid`` where that is how the head's ``decode`` makes probabilities of logits; else None.

    Args:
        head: the head.
        column: the column asked about.
        columns: all of the head's.
    """
    drawn = {c.name: torch.linspace(-2.0, 2.0, 3 * c.size).sin().reshape(3, c.size) for c in columns}
    outputs = {c.name: drawn[c.name][:, 0] if c.kind == "regression" else drawn[c.name] for c in columns}
    found: Tensor = head.decode(outputs)[column.name]  # type: ignore[operator]
    logits = outputs[column.name]
    known = {"softmax": logits.softmax(dim=1), "sigmoid": logits.sigmoid()}
    return next((name for name, values in known.items() if torch.allclose(found, values, atol=1e-6)), None)


def describe_check(checked: Checked) -> dict[str, Any]:
    """What was checked, and how well it agreed."""
    return {
        "by": checked.by,
        "batches": list(checked.batches),
        "largest_difference": checked.difference,
        "tolerance": {"atol": ATOL, "rtol": RTOL, "rule": "|a - b| <= atol + rtol * max|b|"},
    }
