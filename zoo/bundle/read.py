"""Loading a bundle: bytes checked against the manifest, names looked up among installed plugins, nothing executed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from zoo_registry import Input, IntegrityError, Registry

from zoo.assembly.finite import check_finite
from zoo.assembly.memory import own_tensors
from zoo.assembly.model import TransferModel
from zoo.bundle.adapter import apply_adapter, build_strategy, read_adapter_files
from zoo.bundle.document import DOCUMENT, Document, read_document
from zoo.bundle.golden import check_golden
from zoo.bundle.rebuild import WEIGHTS, rebuild_model
from zoo.hub.files import verify_folder


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


def load_bundle(
    path: Path,
    registry: Registry,
    *,
    name: str | None = None,
    revision: str | None = None,
    device: torch.device | str = "cpu",
    files: Iterable[str] | None = None,
) -> LoadedModel:
    """Load a bundle. Files that its manifest does not list are never read.

    Args:
        path: its folder.
        registry: the installed plugins.
        name, revision: for messages.
        device: where the model goes.
        files: its files, where they were hashed just now; else every file is hashed first.

    Raises:
        IntegrityError: files differ from the manifest, or do not make a model.
        PluginError: a plugin that it needs is not installed, or broken.
    """
    where = name or str(path)
    known = frozenset(verify_folder(path, where) if files is None else files)
    if DOCUMENT not in known:
        raise IntegrityError(f"{where} has no {DOCUMENT}", hint="it is no bundle of the zoo")
    document = read_document(path / DOCUMENT, where=where)
    strategy = None if document.merged else build_strategy(document, registry, where)
    model = rebuild_model(document, path, known, registry, where)
    finished(model, where, path / WEIGHTS, device)
    if strategy is not None:
        apply_adapter(strategy, model, read_adapter_files(document, path, known, where, device), where)
        model.eval()
    return LoadedModel(model=model, document=document, path=path, name=where, revision=revision)


def finished(model: TransferModel, where: str, weights: Path, device: torch.device | str) -> None:
    """Check a rebuilt model's numbers, make its tensors its own, and put it on its device, in evaluation mode.

    Raises:
        IntegrityError: there are NaN or infinities among them.
    """
    check_finite(model, where, file=weights)
    if torch.device(device).type == "cpu":  # elsewhere they are copied anyhow, straight from the file
        own_tensors(model)
    model.requires_grad_(True).to(device).eval()


def verify_bundle(path: Path, registry: Registry, *, name: str | None = None) -> float:
    """Load the bundle on the CPU and compare its golden logits; returns the largest difference.

    Raises:
        IntegrityError: files or logits differ.
    """
    loaded = load_bundle(path, registry, name=name)
    return check_golden(loaded.model, loaded.input, loaded.document.golden, where=loaded.name)
