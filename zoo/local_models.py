"""Models on this machine: finished runs and bundles in a folder, and what the cache of a hub has. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_registry import ZooError

from zoo.bundle.document import DOCUMENT, Document, read_document
from zoo.hub.base import TAG, RepoInfo
from zoo.hub.files import MANIFEST
from zoo.patterns import matches
from zoo.runs import RunFolder

if TYPE_CHECKING:
    from zoo.hub.hf_cache import Cache

RUNS = "runs"
"""Where runs without ``--out`` go."""
MOST = 10_000
"""Entries of a folder that are looked at."""


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """A finished run or a bundle.

    Attributes:
        path: the run's or the bundle's folder.
        document: its ``zoo.json``.
        modified: ISO 8601 time at which it was complete.
    """

    path: Path
    document: Document
    modified: str

    @property
    def summary(self) -> str:
        """``starter/cnn + basics/linear, val accuracy 0.9888``."""
        words = f"{self.document.backbone} + {self.document.head}"
        for split, metrics in self.document.metrics.items():
            for name, value in list(metrics.items())[:1]:
                return f"{words}, {split} {name} {value:.4f}"
        return words


def local_models(folder: Path = Path(), pattern: str | None = None) -> list[LocalModel]:
    """The models in a folder and in its ``runs/``, one level deep, newest first. What cannot be read is left out."""
    found = [model for spot in _spots(folder) if (model := _model(spot)) is not None]
    kept = [model for model in found if matches(str(model.path), pattern)]
    return sorted(kept, key=lambda model: (model.modified, str(model.path)), reverse=True)


def _spots(folder: Path) -> Iterator[Path]:
    for root in (folder, folder / RUNS):
        try:
            names = [entry.name for entry in os.scandir(root) if not entry.name.startswith(".")][:MOST]
        except OSError:
            continue
        yield from (root / name for name in sorted(names))


def _model(spot: Path) -> LocalModel | None:
    run = RunFolder(spot)
    folder = run.model if run.is_run() else spot
    try:
        if not (folder / DOCUMENT).is_file() or not (folder / MANIFEST).is_file():
            return None
        stamp = (folder / MANIFEST).stat().st_mtime
        document = read_document(folder / DOCUMENT, where=str(spot))
    except (OSError, ZooError):
        return None
    return LocalModel(path=spot, document=document, modified=datetime.fromtimestamp(stamp, UTC).isoformat())


def cached_models(cache: Cache, pattern: str | None = None) -> list[RepoInfo]:
    """The models of the zoo of which a complete copy is in a hub's cache, newest first; no request is sent."""
    found = []
    for repo in sorted(cache.folder.glob("models--*--*")):
        name = "/".join(repo.name.split("--")[1:])
        noted = sorted((repo / "zoo").glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        info = cache.recorded(name, noted[0].stem) if noted else None
        if info is not None and TAG in info.tags and matches(name, pattern):
            found.append(info)
    return sorted(found, key=lambda info: (info.modified or "", info.name), reverse=True)
