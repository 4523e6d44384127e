"""A bundle as a delta: only what differs from the base weights is stored, and the rest is made again from them.

``delta.safetensors`` stands in the place of ``model.safetensors``. A tensor of the model is one of three::

    from_base       bit by bit the base file's tensor of this name
    from_adapter    the base's with the adapter in adapter/ applied, where it is merged (LoRA's matrices)
    the rest        in delta.safetensors: the classifier always

One sha256 binds them all: names, dtypes, shapes and bytes. The last bits of ``from_adapter`` depend on the machine that
multiplies, so these count without their bytes, and the golden logits vouch for them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from zoo_registry import IntegrityError, Registry, UsageError

from zoo.bundle.adapter import apply_adapter, build_strategy, read_adapter_files
from zoo.bundle.base import WHOLE, base_of, locate_base
from zoo.bundle.card import CARD, bundle_card, read_card
from zoo.bundle.document import DOCUMENT, Document, read_document
from zoo.bundle.rebuild import WEIGHTS, model_on_base
from zoo.bundle.small import ADAPTER_WEIGHTS, DELTA, DeltaRecord
from zoo.bundle.write import export_backbone, write_manifest
from zoo.files import write_bytes, write_json, write_tensors
from zoo.hub.files import MANIFEST
from zoo.training.guard import tensor_hash

WORTH = 0.9
"""A delta must be smaller than so much of the whole weights."""
CLOSE = 1e-5
"""A merged matrix and the one made again may differ by so much of their largest value: float32 rounding."""


@dataclass(frozen=True)
class DeltaSize:
    """What a delta saves: bytes of ``delta.safetensors``, with the adapter that it needs, and of the
    ``model.safetensors`` it replaces.
    """

    stored: int
    whole: int
    base: str

    def __str__(self) -> str:
        """``0.0047 MB in place of 1.9 MB, on starter/vit of zoo-starter``."""
        return f"{self.stored / 1e6:.2g} MB in place of {self.whole / 1e6:.2g} MB, on {self.base}"


def digest(tensors: Iterable[tuple[str, Tensor]], loose: Iterable[str] = ()) -> str:
    """Hex sha256 over all tensors in whatever order: name, dtype, shape, bytes; no bytes of those in ``loose``."""
    free = frozenset(loose)
    rows = [[n, f"{t.dtype}{tuple(t.shape)}" if n in free else tensor_hash(t)] for n, t in tensors]
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()


def write_delta(
    bundle: Path, to: Path, files: Iterable[str], registry: Registry, *, hub: str | None = None, offline: bool = False
) -> DeltaSize:
    """Fill the folder ``to`` with the bundle as a delta.

    Args:
        bundle: a whole bundle.
        to: an existing empty folder.
        files: the bundle's verified files.
        registry: the installed plugins.
        hub, offline: where the base may be.

    Raises:
        UsageError: there is no base, or the delta would hardly be smaller.
        HubError, IntegrityError, PluginError: the base cannot be had, or the adapter not be applied.
    """
    where, known = str(bundle), frozenset(files)
    document = read_document(bundle / DOCUMENT, where=where)
    base = base_of(document, registry, where)
    path = locate_base(base, document, registry, hub=hub, offline=offline, where=where)
    whole = load_file(bundle / WEIGHTS)
    own = set(document.classifier or ())
    same = [n for n, t in _tensors(path) if n not in own and n in whole and tensor_hash(t) == tensor_hash(whole[n])]
    near: list[str] = []
    if document.adapter is not None and document.merged and len(same) < len(whole) - len(own):
        again = apply_to_base(document, path, bundle, known, registry, where)
        near = [n for n in whole if n not in own and n not in same and n in again and _close(whole[n], again[n])]
        whole |= {name: again[name] for name in near}  # what a rebuild gives is what counts from here
    stored = {n: t for n, t in whole.items() if n not in same and n not in near}
    write_tensors(to / DELTA, stored, {"format": "pt"})
    bytes_needed = (to / DELTA).stat().st_size + ((bundle / ADAPTER_WEIGHTS).stat().st_size if near else 0)
    size = DeltaSize(bytes_needed, (bundle / WEIGHTS).stat().st_size, base_name(base, document))
    if size.stored > WORTH * size.whole:
        raise UsageError(
            f"{where}: a delta would store {len(stored)} of {len(whole)} tensors, {size}: hardly less", hint=WHOLE
        )
    record = DeltaRecord(
        base=base, from_base=tuple(sorted(same)), from_adapter=tuple(sorted(near)), sha256=digest(whole.items(), near)
    )
    _copy(bundle, to, known - {WEIGHTS, MANIFEST, DOCUMENT, CARD})
    told = dataclasses.replace(document, delta=record)
    write_json(to / DOCUMENT, told.to_json())
    write_bytes(to / CARD, bundle_card(to, told, before=read_card(bundle)).encode())
    write_manifest(to)
    return size


def rebuild_whole(
    delta: Path,
    to: Path,
    files: Iterable[str],
    registry: Registry,
    *,
    hub: str | None = None,
    offline: bool = False,
    where: str,
) -> DeltaRecord:
    """Fill the folder ``to`` with the whole bundle that a delta stands for.

    Args:
        delta: the delta's folder.
        to: an existing empty folder.
        files: the delta's verified files; no other is read.
        registry, hub, offline: as in :func:`write_delta`.
        where: what messages call the delta.

    Returns:
        how it was made.

    Raises:
        IntegrityError: the base, the delta or what comes of them is not what it should be.
        HubError: the base cannot be had.
        PluginError: a plugin that is needed is not installed.
    """
    known = frozenset(files)
    document = read_document(delta / DOCUMENT, where=where)
    record = document.delta
    if record is None or DELTA not in known or WEIGHTS in known:
        raise IntegrityError(f"{where} has a {DELTA} or speaks of one, but is no delta", hint="publish it again")
    if record.from_adapter and (document.adapter is None or not document.adapter.merged):
        raise IntegrityError(f"{where} is made with an adapter that it does not have", hint="publish it again")
    path = locate_base(record.base, document, registry, hub=hub, offline=offline, where=where)
    tensors = _collected(document, record, path, delta, known, registry, where)
    if digest(tensors.items(), record.from_adapter) != record.sha256:
        raise IntegrityError(
            f"{where}: base and delta do not make the tensors that were published", hint="publish it again"
        )
    write_tensors(to / WEIGHTS, tensors, {"format": "pt"})
    _copy(delta, to, known - {DELTA, MANIFEST, DOCUMENT})
    write_json(to / DOCUMENT, dataclasses.replace(document, delta=None).to_json())
    write_manifest(to)
    return record


def apply_to_base(
    document: Document, base: Path, folder: Path, files: frozenset[str], registry: Registry, where: str
) -> dict[str, Tensor]:
    """The backbone's tensors, in the published names, of the base weights with the bundle's merged adapter applied.

    Raises:
        IntegrityError: the adapter does not fit.
        PluginError: its plugin is not installed.
    """
    strategy = build_strategy(document, registry, where)
    saved = read_adapter_files(document, folder, files, where)
    model = model_on_base(document, base, folder, files, registry, where)
    apply_adapter(strategy, model, saved, where)
    return dict(export_backbone(document.backbone, model.backbone, None, (), document.input).tensors)


def base_name(base: Mapping[str, str], document: Document) -> str:
    """The base in a few words."""
    if base["kind"] == "hub":
        return f"{base['repo']}@{base['revision'][:12]}"
    return f"{document.backbone} of {base['distribution']}"


def _collected(
    document: Document,
    record: DeltaRecord,
    base: Path,
    delta: Path,
    files: frozenset[str],
    registry: Registry,
    where: str,
) -> dict[str, Tensor]:
    """All tensors: of the delta, of the base, of the adapter on the base."""
    try:
        tensors = load_file(delta / DELTA)
    except Exception as error:
        raise IntegrityError(f"{where}: {DELTA} is no safetensors file: {error}") from error
    sources = [(record.from_base, dict(_tensors(base, record.from_base)))]
    if record.from_adapter:
        sources.append((record.from_adapter, apply_to_base(document, base, delta, files, registry, where)))
    for names, found in sources:
        for name in names:
            if name in tensors or name not in found:
                what = "stands in it twice" if name in tensors else "is not in its base"
                raise IntegrityError(f"{where}: tensor {name!r:.80} of the delta {what}", hint="publish it again")
            tensors[name] = found[name]
    return tensors


def _tensors(path: Path, names: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file one by one, or those of them that are named."""
    with safe_open(path, framework="pt") as file:
        there = file.keys()
        for name in there if names is None else sorted(set(names) & set(there)):
            yield name, file.get_tensor(name)


def _close(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if not left.is_floating_point():
        return torch.equal(left, right)
    gap = (left.double() - right.double()).abs().max() if left.numel() else torch.zeros(())
    return bool(gap <= CLOSE * max(float(left.abs().max()) if left.numel() else 0.0, 1e-12))


def _copy(source: Path, to: Path, names: Iterable[str]) -> None:
    for name in sorted(names):
        if (source / name).is_file():  # the card may be gone
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, to / name)
