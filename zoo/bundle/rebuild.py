"""From a checked ``zoo.json`` and its tensors back to a module. Sizes are compared before memory is taken for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from zoo_registry import Classifier, IntegrityError, Registry
from zoo_registry.errors import ZooError

from zoo.assembly.model import FoldedHead, TransferModel
from zoo.bundle.document import Document
from zoo.bundle.parts import built, bundle_assets, find_entry, parsed_options, tensor_shapes
from zoo.bundle.small import DELTA

WEIGHTS = "model.safetensors"
HEAD = "head.safetensors"


def rebuild_model(
    document: Document,
    path: Path,
    files: frozenset[str],
    registry: Registry,
    where: str,
    weights: str = WEIGHTS,
) -> TransferModel:
    """The model of a bundle, on the CPU; an adapter that is not merged is not yet applied.

    Args:
        document: its ``zoo.json``.
        path: its folder.
        files: the files that were verified; no other is read.
        registry: the installed plugins.
        where: what messages call the bundle.
        weights: name of the file with the weights.

    Raises:
        IntegrityError: options, sizes or tensors do not make a model.
        PluginError: the plugin of its backbone or head is not installed, or broken.
    """
    if document.delta is not None or DELTA in files:
        raise IntegrityError(f"{where} is a delta, which is not a model by itself", hint="zoo pull makes it whole")
    if weights not in files:
        raise IntegrityError(f"{where} has no {weights}", hint="the bundle is not complete; write or pull it again")
    width = _width(document, registry, where)
    head_entry = find_entry(registry, document, "head", document.head)
    head_options = parsed_options(head_entry, document.head_options, "head", where)
    if document.head_form == "folded":
        _check_classifier(document, path / weights, width, where)
    elif HEAD in files:
        _check_head_sizes(head_entry, head_options, document, path / HEAD, width, where)
    backbone = _backbone(document, path / weights, path, files, registry, where)
    _check_report(backbone, document, where, weights)
    head = built(head_entry, where, head_options, width=width, targets=document.columns)
    whole = _with_weights(head, document, path, files, where, weights)
    return TransferModel(backbone, whole, document.columns, document.input)


def model_on_base(
    document: Document, base: Path, path: Path, files: frozenset[str], registry: Registry, where: str
) -> TransferModel:
    """The model that a bundle's training began with: the backbone with the weights ``base``, and some head.

    Raises:
        IntegrityError, PluginError: as :func:`rebuild_model`.
    """
    head_entry = find_entry(registry, document, "head", document.head)
    options = parsed_options(head_entry, document.head_options, "head", where)
    backbone = _backbone(document, base, path, files, registry, where)
    head = built(head_entry, where, options, width=_width(document, registry, where), targets=document.columns)
    return TransferModel(backbone, head, document.columns, document.input)


def _width(document: Document, registry: Registry, where: str) -> Any:
    width = find_entry(registry, document, "backbone", document.backbone).spec.features.get(document.features)
    if width is None:
        raise IntegrityError(f"{where}: {document.backbone} has no {document.features!r} features")
    return width


def _backbone(
    document: Document, weights: Path, path: Path, files: frozenset[str], registry: Registry, where: str
) -> nn.Module:
    entry = find_entry(registry, document, "backbone", document.backbone)
    return built(
        entry,
        where,
        parsed_options(entry, document.backbone_options, "backbone", where),
        input=document.input,
        features=document.features,
        weights=weights,
        device="cpu",
        dtype=None,
        **bundle_assets(entry, path, files, where),
    )


def _check_classifier(document: Document, path: Path, width: Any, where: str) -> None:
    """A folded head is one linear layer of the right size, for one column."""
    if document.classifier is None or len(document.columns) != 1:
        raise IntegrityError(f"{where}: zoo.json says the head is folded, but names no classifier for its one column")
    shapes = tensor_shapes(path, where)
    weight, bias = (shapes.get(name) for name in document.classifier)
    rows = document.columns[0].size
    if weight not in ((rows, width), (rows, width, 1, 1)) or bias != (rows,):
        raise IntegrityError(
            f"{where}: the classifier is {weight} with bias {bias}, where {(rows, width)} and {(rows,)} belong"
        )


def _check_head_sizes(entry: Any, options: Any, document: Document, path: Path, width: Any, where: str) -> None:
    """Build the head without memory and compare its shapes with the file's; a head that cannot is built for real.

    Tensors that the head names in ``data_sized`` may have any first dimension; what they take the file has, no more.
    """
    try:
        with torch.device("meta"):
            head = entry.factory()(entry.spec, options, width=width, targets=document.columns)
    except (ZooError, NotImplementedError, RuntimeError, ValueError, TypeError):
        return
    found = tensor_shapes(path, where)
    wanted = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    free = set(getattr(head, "data_sized", ())) & set(wanted)
    for name in sorted(set(found) | set(wanted)):
        start = 1 if name in free and found.get(name) else 0
        if name not in found or name not in wanted or found[name][start:] != wanted[name][start:]:
            raise IntegrityError(
                f"{where}: {HEAD} does not fit {document.head}: tensor {name!r} has shape {found.get(name)}, "
                f"the head wants {wanted.get(name)}"
            )


def _check_report(backbone: Any, document: Document, where: str, weights: str) -> None:
    """Every tensor of the backbone must come from the file, as it is; only the classifier may be left over."""
    report = getattr(backbone, "load_report", None)
    if report is None:
        return
    extra = set(report.dropped) - set(document.classifier or ())
    for word, names in (("missing", report.initialised), ("of another shape", report.resized), ("unexpected", extra)):
        if names:
            raise IntegrityError(
                f"{where}: {weights} does not fit {document.backbone}: {len(names)} tensors are {word}, "
                f"such as {sorted(names)[0]!r}"
            )


def _with_weights(
    head: nn.Module, document: Document, path: Path, files: frozenset[str], where: str, weights: str
) -> nn.Module:
    try:
        if document.head_form == "folded":
            assert document.classifier is not None  # checked with its shapes
            with safe_open(path / weights, framework="pt") as file:
                weight, bias = (file.get_tensor(name) for name in document.classifier)
            return FoldedHead(head, Classifier(weight.flatten(1), bias), document.columns[0])
        head.load_state_dict(load_file(path / HEAD) if HEAD in files else {})
        return head
    except Exception as error:
        raise IntegrityError(f"{where}: the head cannot be loaded: {' '.join(str(error).split())[:200]}") from error
