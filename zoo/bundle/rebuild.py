"""From a checked ``zoo.json`` and its tensors back to a module. Sizes are compared before memory is taken for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from zoo_registry import Classifier, IntegrityError, PluginError, Registry
from zoo_registry.errors import UnknownNameError, ZooError
from zoo_registry.options import parse_options

from zoo.assembly.model import FoldedHead, TransferModel
from zoo.bundle.document import Document

WEIGHTS = "model.safetensors"
HEAD = "head.safetensors"


def rebuild_model(
    document: Document, path: Path, files: frozenset[str], registry: Registry, where: str
) -> TransferModel:
    """The model of a bundle, on the CPU.

    Args:
        document: its ``zoo.json``.
        path: its folder.
        files: the files that were verified; no other is read.
        registry: the installed plugins.
        where: what messages call the bundle.

    Raises:
        IntegrityError: options, sizes or tensors do not make a model.
        PluginError: the plugin of its backbone or head is not installed, or broken.
    """
    if WEIGHTS not in files:
        raise IntegrityError(f"{where} has no {WEIGHTS}", hint="the bundle is not complete; write or pull it again")
    backbone_entry = find_entry(registry, document, "backbone", document.backbone)
    head_entry = find_entry(registry, document, "head", document.head)
    backbone_options = _options(backbone_entry, document.backbone_options, "backbone", where)
    head_options = _options(head_entry, document.head_options, "head", where)
    width = backbone_entry.spec.features.get(document.features)
    if width is None:
        raise IntegrityError(f"{where}: {document.backbone} has no {document.features!r} features")
    if document.head_form == "folded":
        _check_classifier(document, path / WEIGHTS, width, where)
    elif HEAD in files:
        _check_head_sizes(head_entry, head_options, document, path / HEAD, width, where)
    backbone = _built(
        backbone_entry,
        where,
        backbone_options,
        input=document.input,
        features=document.features,
        weights=path / WEIGHTS,
        device="cpu",
        dtype=None,
        **_assets(backbone_entry, path, files, where),
    )
    _check_report(backbone, document, where)
    head = _built(head_entry, where, head_options, width=width, targets=document.columns)
    return TransferModel(backbone, _with_weights(head, document, path, files, where), document.columns)


def find_entry(registry: Registry, document: Document, kind: str, name: str) -> Any:
    """The registry's entry for a name that ``zoo.json`` holds.

    Raises:
        PluginError: nothing installed answers to it; the hint is the ``pip install`` line.
    """
    try:
        return registry.find(kind, name)
    except UnknownNameError as error:
        namespace = name.partition("/")[0]
        record = next((p for p in document.plugins if p.namespace == namespace), None)
        there = any(p.namespace == namespace and p.status == "ok" for p in registry.plugins)
        why = (
            f"is not offered by the installed plugin {namespace!r}"
            if there
            else f"needs the plugin {namespace!r}, which is not installed"
        )
        install = f"pip install {record.distribution}=={record.version}" if record else "ask who published it"
        raise PluginError(
            f"the model's {kind} {name!r} {why}", hint=f"{install} (the bundle's own word: install what you trust)"
        ) from error


def _options(entry: Any, values: dict[str, Any], kind: str, where: str) -> Any:
    try:
        return parse_options(entry.spec.options, values, where=kind)
    except PluginError:
        raise
    except ZooError as error:
        raise IntegrityError(f"{where}: zoo.json: {error.message}", hint=error.hint) from error


def _built(entry: Any, where: str, options: Any, **arguments: Any) -> nn.Module:
    """Call a factory; what it says of these values is a fault of the bundle, not of the user."""
    factory: Any = entry.factory()
    try:
        module = factory(entry.spec, options, **arguments)
    except (IntegrityError, PluginError):
        raise
    except ZooError as error:
        raise IntegrityError(f"{where}: {error.message}", hint=error.hint) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise IntegrityError(
            f"{where}: {entry.kind} {entry.name} cannot be built from it: {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(module, nn.Module):
        raise PluginError(
            f"{entry.kind} {entry.name}: its factory returned {type(module).__name__}, not a torch module"
        )
    return module


def _assets(entry: Any, path: Path, files: frozenset[str], where: str) -> dict[str, Any]:
    """The ``assets`` argument of a backbone that needs files beside its weights: the bundle's own, and no others."""
    names = entry.spec.weights.assets if entry.spec.weights else ()
    missing = [name for name in names if name not in files]
    if missing:
        raise IntegrityError(f"{where} has no {missing[0]}, which {entry.name} needs")
    return {"assets": {name: path / name for name in names}} if names else {}


def _shapes(path: Path, where: str) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise IntegrityError(f"{where}: {path.name} is no safetensors file: {error}") from error


def _check_classifier(document: Document, path: Path, width: Any, where: str) -> None:
    """A folded head is one linear layer of the right size, for one column."""
    if document.classifier is None or len(document.columns) != 1:
        raise IntegrityError(f"{where}: zoo.json says the head is folded, but names no classifier for its one column")
    shapes = _shapes(path, where)
    weight, bias = (shapes.get(name) for name in document.classifier)
    rows = document.columns[0].size
    if weight not in ((rows, width), (rows, width, 1, 1)) or bias != (rows,):
        raise IntegrityError(
            f"{where}: the classifier is {weight} with bias {bias}, where {(rows, width)} and {(rows,)} belong"
        )


def _check_head_sizes(entry: Any, options: Any, document: Document, path: Path, width: Any, where: str) -> None:
    """Build the head without memory and compare its shapes with the file's; a head that cannot is built for real."""
    try:
        with torch.device("meta"):
            head = entry.factory()(entry.spec, options, width=width, targets=document.columns)
    except (ZooError, NotImplementedError, RuntimeError, ValueError, TypeError):
        return
    found = _shapes(path, where)
    wanted = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    for name in sorted(set(found) | set(wanted)):
        if found.get(name) != wanted.get(name):
            raise IntegrityError(
                f"{where}: {HEAD} does not fit {document.head}: tensor {name!r} has shape {found.get(name)}, "
                f"the head wants {wanted.get(name)}"
            )


def _check_report(backbone: Any, document: Document, where: str) -> None:
    """Every tensor of the backbone must come from the file, as it is; only the classifier may be left over."""
    report = getattr(backbone, "load_report", None)
    if report is None:
        return
    extra = set(report.dropped) - set(document.classifier or ())
    for word, names in (("missing", report.initialised), ("of another shape", report.resized), ("unexpected", extra)):
        if names:
            raise IntegrityError(
                f"{where}: {WEIGHTS} does not fit {document.backbone}: {len(names)} tensors are {word}, "
                f"such as {sorted(names)[0]!r}"
            )


def _with_weights(head: nn.Module, document: Document, path: Path, files: frozenset[str], where: str) -> nn.Module:
    try:
        if document.head_form == "folded":
            assert document.classifier is not None  # checked with its shapes
            with safe_open(path / WEIGHTS, framework="pt") as file:
                weight, bias = (file.get_tensor(name) for name in document.classifier)
            return FoldedHead(head, Classifier(weight.flatten(1), bias), document.columns[0])
        head.load_state_dict(load_file(path / HEAD) if HEAD in files else {})
        return head
    except Exception as error:
        raise IntegrityError(f"{where}: the head cannot be loaded: {' '.join(str(error).split())[:200]}") from error
