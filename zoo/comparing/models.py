"""Comparing two models, wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_registry import Registry, UsageError

from zoo.bundle.document import DOCUMENT, Document, read_document
from zoo.comparing.blocks import block_names
from zoo.comparing.documents import Change, Metric, changes, class_changes, metrics_of, parts_of
from zoo.comparing.tensors import TensorChanges, compare_tensors
from zoo.hub.base import RepoFile
from zoo.hub.files import MANIFEST, read_manifest, sha256_of, verify_folder
from zoo.models import FoundModel, find_model

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two.

    Attributes:
        name: as asked for.
        revision: commit, where it came from a hub.
        path: its folder.
        document: its ``zoo.json``; None where another library wrote it.
        tensors: safetensors file -> its path.
        hashes: safetensors file -> sha256 of its bytes.
    """

    name: str
    revision: str | None
    path: Path
    document: Document | None
    tensors: dict[str, Path]
    hashes: dict[str, str]

    def words(self) -> str:
        """``me/flowers@3f2a91c0d5aa``."""
        return f"{self.name.partition('@')[0]}@{self.revision[:12]}" if self.revision else self.name

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"name": self.name, "revision": self.revision, "path": str(self.path)}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What differs between two models; ``recipe``, ``data`` and ``metrics`` are empty where a side has no zoo.json."""

    a: Side
    b: Side
    parts: list[Change]
    recipe: list[Change]
    data: list[Change]
    metrics: list[Metric]
    tensors: TensorChanges

    @property
    def same(self) -> bool:
        """Whether nothing differs, metrics included."""
        moved = any(row.a != row.b for row in self.metrics)
        return not (self.parts or self.recipe or self.data or moved) and self.tensors.none

    def to_json(self) -> dict[str, Any]:
        """What ``zoo diff --json`` prints."""
        rows = {name: [row.to_json() for row in getattr(self, name)] for name in ("parts", "recipe", "data", "metrics")}
        sides = {"a": self.a.to_json(), "b": self.b.to_json()}
        return {"same": self.same, **sides, **rows, "tensors": self.tensors.to_json()}


def compare(a: str, b: str, registry: Registry, *, hub: str | None = None, offline: bool = False) -> Difference:
    """What differs between two models: runs, bundles, or names on a hub; nothing of them is executed.

    Raises:
        ZooError: see :func:`zoo.models.find_model`.
        UsageError: there are no tensors in one of them.
        IntegrityError: a file is not what its manifest says.
    """
    left, right = (_side(model, registry, hub, offline) for model in (a, b))
    known = left.document if left.document is not None else right.document
    block, order = block_names(known, _tensor_names(left), registry, left.name)
    equal = [name for name, sha in left.hashes.items() if right.hashes.get(name) == sha]
    tensors = compare_tensors(left.tensors, right.tensors, same=equal, block=block)
    rank = {name: place for place, name in enumerate(order)}
    tensors.blocks = dict(sorted(tensors.blocks.items(), key=lambda row: (rank.get(row[0], len(rank)), _place(row[0]))))
    if left.document is None or right.document is None:
        return Difference(a=left, b=right, parts=[], recipe=[], data=[], metrics=[], tensors=tensors)
    one, two = left.document, right.document
    return Difference(
        a=left,
        b=right,
        parts=changes(parts_of(one), parts_of(two)) + class_changes(one, two),
        recipe=changes(one.recipe, two.recipe),
        data=changes(one.data, two.data),
        metrics=metrics_of(one, two),
        tensors=tensors,
    )


def _place(block: str) -> tuple[int, tuple[tuple[int, Any], ...]]:
    """Blocks by name with numbers as numbers; the head last."""
    parts = tuple((0, int(part)) if part.isdigit() else (1, part) for part in block.split("."))
    return int(block == "head"), parts


def _side(model: str, registry: Registry, hub: str | None, offline: bool) -> Side:
    found = find_model(model, registry=registry, hub=hub, offline=offline)
    listed = _listed(found)
    tensors = {name: found.path / name for name in listed if name.endswith(".safetensors")}
    if not tensors:
        raise UsageError(f"{model!r} has no tensors to compare", hint="give a run, a bundle, or owner/name on a hub")
    document = read_document(found.path / DOCUMENT, where=model) if DOCUMENT in listed else None
    hashes = {name: listed[name].sha256 or sha256_of(path) for name, path in tensors.items()}
    return Side(
        name=model,
        revision=found.revision,
        path=found.path,
        document=document,
        tensors=tensors,
        hashes=hashes,
    )


def _listed(found: FoundModel) -> dict[str, RepoFile]:
    """The model's files, all verified; those that another library wrote have no hash."""
    if found.files is None:
        return verify_folder(found.path, found.name)
    listed = read_manifest(found.path / MANIFEST, found.name) if MANIFEST in found.files else {}
    return {name: listed.get(name) or RepoFile(path=name, size=0) for name in found.files}


def _tensor_names(side: Side) -> list[str]:
    from zoo.bundle.parts import tensor_shapes

    return list(tensor_shapes(side.tensors[WEIGHTS], side.name)) if WEIGHTS in side.tensors else []
