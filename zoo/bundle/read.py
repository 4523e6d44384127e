"""Loading a bundle: bytes checked against the manifest, names looked up among installed plugins, nothing executed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from zoo_registry import Classifier, Input, IntegrityError, PluginError, Registry
from zoo_registry.errors import UnknownNameError, ZooError
from zoo_registry.options import parse_options

from zoo.assembly.assemble import check_finite
from zoo.assembly.model import FoldedHead, TransferModel
from zoo.bundle.document import Document, read_document
from zoo.bundle.golden import check_golden
from zoo.hub.base import RepoFile
from zoo.hub.files import MANIFEST, check_listed, list_folder, read_manifest, sha256_of


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A published model, ready to predict.

    Attributes:
        model: on its device, in evaluation mode.
        document: its ``zoo.json``.
        path: the bundle's folder.
        name: what it was asked for as.
        revision: commit id where it came from a hub.
    """

    model: TransferModel
    document: Document
    path: Path
    name: str
    revision: str | None = None

    @property
    def input(self) -> Input:
        """What the model is fed."""
        return self.document.input


def is_bundle(path: Path) -> bool:
    """Whether the folder looks like a bundle."""
    return (path / "zoo.json").is_file() and (path / "model.safetensors").is_file()


def verify_files(path: Path, *, where: str) -> None:
    """Compare every file with the manifest.

    Raises:
        IntegrityError: no manifest, or a file that is missing, changed or not listed (it is named).
    """
    if not (path / MANIFEST).is_file():
        raise IntegrityError(f"{where} has no {MANIFEST}", hint="the bundle is not complete; write or pull it again")
    listed = read_manifest(path / MANIFEST, where)
    present = {}
    for name in list_folder(path):
        file = path / name
        present[name] = RepoFile(path=name, size=file.stat().st_size, sha256=sha256_of(file))
    check_listed(listed, present, where)


def load_bundle(
    path: Path,
    registry: Registry,
    *,
    name: str | None = None,
    revision: str | None = None,
    device: torch.device | str = "cpu",
    verify: bool = True,
) -> LoadedModel:
    """Load a bundle.

    Args:
        path: its folder.
        registry: the installed plugins.
        name, revision: for messages.
        device: where the model goes.
        verify: hash every file first; False where that was just done.

    Raises:
        IntegrityError: files differ from the manifest, or do not make a model.
        PluginError: the plugin of its backbone or head is not installed, or broken.
    """
    where = name or str(path)
    if verify:
        verify_files(path, where=where)
    document = read_document(path / "zoo.json", where=where)
    backbone_entry = _find(registry, document, "backbone", document.backbone)
    head_entry = _find(registry, document, "head", document.head)
    try:
        backbone_options = parse_options(backbone_entry.spec.options, document.backbone_options, where="backbone")
        head_options = parse_options(head_entry.spec.options, document.head_options, where="head")
    except ZooError as error:
        raise IntegrityError(f"{where}: zoo.json: {error.message}", hint=error.hint) from error
    weights = path / "model.safetensors"
    backbone = backbone_entry.factory()(
        backbone_entry.spec,
        backbone_options,
        input=document.input,
        features=document.features,
        weights=weights,
        device="cpu",
        dtype=None,
    )
    _check_report(backbone, document, where)
    width = backbone_entry.spec.features.get(document.features)
    if width is None:
        raise IntegrityError(f"{where}: {document.backbone} has no {document.features!r} features")
    head = head_entry.factory()(head_entry.spec, head_options, width=width, targets=document.columns)
    head = _load_head(head, document, path, where)
    model = TransferModel(backbone, head, document.columns)
    check_finite(model, where)
    model.requires_grad_(True).to(device).eval()
    return LoadedModel(model=model, document=document, path=path, name=where, revision=revision)


def verify_bundle(path: Path, registry: Registry, *, name: str | None = None) -> float:
    """Load the bundle on the CPU and compare its golden logits; returns the largest difference.

    Raises:
        IntegrityError: files or logits differ.
    """
    loaded = load_bundle(path, registry, name=name)
    return check_golden(loaded.model, loaded.input, loaded.document.golden, where=loaded.name)


def _find(registry: Registry, document: Document, kind: str, name: str) -> Any:
    try:
        return registry.find(kind, name)
    except UnknownNameError as error:
        namespace = name.partition("/")[0]
        record = next((p for p in document.plugins if p.namespace == namespace), None)
        if record is None or any(p.namespace == namespace and p.status == "ok" for p in registry.plugins):
            version = f"=={record.version}" if record else ""
            package = record.distribution if record else f"(whichever offers {namespace!r})"
            raise PluginError(
                f"the model's {kind} {name!r} is not offered by the installed plugin",
                hint=f"pip install {package}{version}",
            ) from error
        raise PluginError(
            f"the model's {kind} {name!r} needs the plugin {namespace!r}, which is not installed",
            hint=f"pip install {record.distribution}=={record.version}",
        ) from error


def _check_report(backbone: Any, document: Document, where: str) -> None:
    """Every tensor of the backbone must come from the file, as it is; only the classifier may be left over."""
    report = getattr(backbone, "load_report", None)
    if report is None:
        return
    extra = set(report.dropped) - set(document.classifier or ())
    for word, names in (("missing", report.initialised), ("of another shape", report.resized), ("unexpected", extra)):
        if names:
            raise IntegrityError(
                f"{where}: model.safetensors does not fit {document.backbone}: {len(names)} tensors are {word}, "
                f"such as {sorted(names)[0]!r}"
            )


def _load_head(head: torch.nn.Module, document: Document, path: Path, where: str) -> torch.nn.Module:
    try:
        if document.head_form == "folded":
            if document.classifier is None or len(document.columns) != 1:
                raise IntegrityError(f"{where}: zoo.json says the head is folded, but names no classifier")
            with safe_open(path / "model.safetensors", framework="pt") as file:
                weight, bias = (file.get_tensor(name) for name in document.classifier)
            column = document.columns[0]
            if weight.flatten(1).shape[0] != column.size or bias.shape != (column.size,):
                raise IntegrityError(f"{where}: the classifier has {len(bias)} outputs, not {column.size}")
            return FoldedHead(head, Classifier(weight.flatten(1), bias), column)
        file_path = path / "head.safetensors"
        head.load_state_dict(load_file(file_path) if file_path.exists() else {})
        return head
    except IntegrityError:
        raise
    except Exception as error:
        raise IntegrityError(f"{where}: the head cannot be loaded: {' '.join(str(error).split())[:200]}") from error
