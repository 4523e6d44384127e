"""The features that a run asks for: computed once, found again in memory or on the disk, bit by bit the same.

A pass goes over ``train`` and ``val`` together, in the order of their ids: so seeds that draw another ``val`` from the
same samples, and all heads and phases, share it. Its batches have a fixed size, whatever the run's own is.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from zoo_registry import DataError, ImageInput

from zoo.data.bad import BadSamples
from zoo.data.dataset import Dataset
from zoo.features.extraction import batch_of, compute, layout_of
from zoo.features.keys import backbone_key, describe_call, joined, setup_key, source_of
from zoo.features.pool import Pool, Rows
from zoo.features.store import DamagedError, Entry, FeatureStore

if TYPE_CHECKING:
    from zoo.training.pipeline import Pipeline

KEEP_SECONDS = 1.0
"""A pass that took less is not worth a file, where the recipe does not ask for one."""
Pass = Callable[[int], dict[str, Entry]]
EXACT = "eval"
"""The name of the evaluation view."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a pass is to compute.

    Attributes:
        pool: the samples.
        view: view name -> transform.
        words: what a person is told of the view, after "features of 3 images".
        level: what the view is made by, beside its transform.
        seed: of the draws, 0 where nothing is drawn.
        short_edge: large images may be decoded so small.
    """

    pool: Pool
    view: str
    transform: Any
    words: str = ""
    level: str = ""
    seed: int = 0
    short_edge: int | None = None

    @property
    def drawing(self) -> str:
        """All that decides what is drawn and read."""
        return drawing_of(self.view, self.level, self.seed, self.short_edge)


class FeatureBank:
    """Features of one run.

    Args:
        pipeline: of the backbone's input.
        data: with ``train`` and ``val``.
        bad: told of what cannot be read.
        seed: of the augmented views.
        mode: ``auto`` and ``disk`` keep on the disk and in memory, ``memory`` in memory alone.
        limit: bytes on the disk.
        apart: whether ``train`` and ``val`` are passed over apart, for a run that trains on augmented views.
        precision: of the passes, ``float32`` or ``bf16``.
        workers: asked for the number of processes that decode.

    Attributes:
        note: told, in words, where features came from.
        beat: called after each batch of a pass.
        fit: calls a pass with a number of samples at once, or with fewer where memory does not suffice.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        data: Dataset,
        bad: BadSamples,
        *,
        seed: int,
        mode: str = "auto",
        limit: int = 0,
        apart: bool = False,
        precision: str = "float32",
        workers: Callable[[], int] = lambda: 0,
    ) -> None:
        self.pipeline, self.data, self.bad, self.seed, self.mode = pipeline, data, bad, seed, mode
        self.apart, self.precision, self.workers = apart, precision, workers
        self.store = FeatureStore(limit) if mode in ("auto", "disk") and limit > 0 else None
        self.note: Callable[[str], None] = lambda text: None
        self.beat: Callable[[int], None] | None = None
        self.fit: Callable[[Pass, int], dict[str, Entry]] = lambda work, size: work(size)
        self._memory: dict[tuple[str, int, str], Entry] = {}
        self._pools: dict[tuple[str, ...], Pool] = {}
        self._told: set[str] = set()

    def exact(self, backbone: nn.Module, split: str) -> Rows:
        """Features of a split under the evaluation view.

        Raises:
            DataError: no sample of it can be read, or too many cannot.
        """
        pool = self._pool(("train", "val") if split in ("train", "val") and not self.apart else (split,))
        asked = Asked(pool=pool, view=EXACT, transform=self.pipeline.transform(EXACT))
        return self._rows(asked, self._entries(backbone, [asked])[0], split)

    def views(
        self, backbone: nn.Module, transform: Any, count: int, *, level: str, short_edge: int | None = None
    ) -> list[Rows]:
        """Features of ``train`` under so many augmented views; each depends on its number and the seed alone.

        Args:
            backbone: at rest.
            transform: of the view ``train``.
            count: how many.
            level: of augmentation.
            short_edge: large images may be decoded so small.

        Raises:
            DataError: no sample can be read, or too many cannot.
        """
        pool = self._pool(("train",))
        asked = [
            Asked(
                pool=pool, view=f"view {number}", transform=transform, words=f", augmented view {number + 1},",
                level=level, seed=self.seed, short_edge=short_edge,
            )
            for number in range(count)
        ]  # fmt: skip
        return [self._rows(asked[0], entry, "train") for entry in self._entries(backbone, asked)]

    def forget(self) -> None:
        """Leave memory to others."""
        self._memory.clear()

    def _pool(self, names: tuple[str, ...]) -> Pool:
        if names not in self._pools:
            self._pools[names] = Pool.of(self.data.split(name) for name in names)
        return self._pools[names]

    def _rows(self, asked: Asked, entry: Entry, split: str) -> Rows:
        self.bad.add(asked.pool.bad_rows(entry))
        found = asked.pool.rows(entry, split)
        if not found.places:
            raise DataError(f"none of the {len(self.data.split(split))} samples of {split} can be read")
        return found

    def _entries(self, backbone: nn.Module, wanted: list[Asked]) -> list[Entry]:
        """From memory, the disk, or a pass."""
        known = backbone_key(backbone)
        found: dict[str, Entry] = {}
        if known is not None:
            for asked in wanted:
                entry = self._memory.get((known, id(asked.pool), asked.drawing))
                entry = entry or self._stored(backbone, known, asked)
                if entry is not None:
                    found[asked.view] = entry
        missing = [asked for asked in wanted if asked.view not in found]
        if missing:
            found |= self._compute(backbone, known, missing)
        if known is not None:
            self._memory |= {(known, id(a.pool), a.drawing): found[a.view] for a in wanted}
        return [found[asked.view] for asked in wanted]

    def _compute(self, backbone: nn.Module, known: str | None, missing: list[Asked]) -> dict[str, Entry]:
        """One pass for all of them; what it finds is stored."""
        begun, clock, first = time.time(), time.monotonic(), missing[0]
        sizes: list[int] = []

        def work(batch: int) -> dict[str, Entry]:
            sizes.append(batch)
            views = {asked.view: asked.transform for asked in missing}
            return compute(
                backbone, first.pool.split, self.pipeline, views, layout=self._layout(backbone), batch=batch,
                precision=self.precision, seed=first.seed, short_edge=first.short_edge, workers=self.workers(),
                progress=self.beat,
            )  # fmt: skip

        modes = {module: module.training for module in backbone.modules()}
        backbone.eval()
        try:
            found = self.fit(work, batch_of(self.pipeline.device))
        finally:
            for module, mode in modes.items():
                module.training = mode
        spent = time.monotonic() - clock
        words = first.words if len(missing) == 1 else f", {len(missing)} augmented views of each,"
        kept = ""
        usual = sizes[-1] == batch_of(self.pipeline.device)  # others have other last bits
        if usual and known is not None and (self.mode == "disk" or spent >= KEEP_SECONDS):
            taken = sum(self._keep(backbone, known, asked, found[asked.view], begun) for asked in missing)
            kept = f", {taken / 1e6:.1f} MB kept for other runs" if taken else ""
        self.note(f"features of {self._count(first)}{words} computed in {spent:.1f} s{kept}")
        return found

    def _count(self, asked: Asked) -> str:
        kind = "image" if isinstance(self.pipeline.input, ImageInput) else "sample"
        return f"{len(asked.pool.split):,} {kind}{'s' if len(asked.pool.split) != 1 else ''}"

    def _layout(self, backbone: nn.Module) -> str:
        return layout_of(backbone) if isinstance(self.pipeline.input, ImageInput) else "contiguous"

    def _place(self, backbone: nn.Module, known: str, asked: Asked) -> Path | None:
        """Where it is, or would be, stored; None where something of it cannot be told."""
        setup = pass_setup(
            backbone, self.pipeline, asked.pool.split.decoder, asked.transform, asked.drawing, self.precision
        )
        if self.store is None or setup is None:
            self._tell_once("features are kept in memory alone: a transform or decoder cannot be told from others")
            return None
        hashes = asked.pool.hashes()
        if hashes is None:
            self._tell_once("features are kept in memory alone: the content of the samples is not known beforehand")
            return None
        return self.store.path(known, setup, joined(hashes))

    def _tell_once(self, text: str) -> None:
        if self.mode == "disk" and text not in self._told:
            self._told.add(text)
            self.note(text)

    def _stored(self, backbone: nn.Module, known: str, asked: Asked) -> Entry | None:
        if self.store is None or not self.store.knows(known):
            return None
        path = self._place(backbone, known, asked)
        try:
            entry = self.store.read(path) if path else None
        except DamagedError as error:
            self.note(f"stored features are damaged ({error}) and are computed again: {path}")
            return None
        if entry is None:
            return None
        self.note(f"features of {self._count(asked)}{asked.words} read from the cache")
        return dataclasses.replace(entry, features=moved(entry.features, self.pipeline.device))

    def _keep(self, backbone: nn.Module, known: str, asked: Asked, entry: Entry, begun: float) -> int:
        """Store what a pass found; the bytes that were written."""
        path = self._place(backbone, known, asked) if self.store is not None and entry.rows else None
        flawed = any("MemoryError" in reason for _, reason in entry.bad)
        if path is None or self.store is None or flawed or asked.pool.changed_since(begun):
            return 0
        contents = torch.frombuffer(bytearray(b"".join(asked.pool.hashes() or [])), dtype=torch.uint8).reshape(-1, 32)
        try:
            size = self.store.write(path, dataclasses.replace(entry, contents=contents))
        except OSError as error:
            self.note(f"features cannot be kept on the disk: {error.strerror or error}")
            return 0
        if not size:
            self.note("features take more than train.features_gb and are not kept on the disk")
        return size


def pass_setup(
    backbone: nn.Module, pipeline: Pipeline, decoder: Any, transform: Any, drawing: str, precision: str = "float32"
) -> str | None:
    """Hex sha256 of how a pass reads and computes, apart from backbone and samples; None where it cannot be told."""
    collate = pipeline.loader_options.get("collate")
    told = [describe_call(function) for function in (decoder, transform, *([collate] if collate is not None else []))]
    if any(text is None for text in told):
        return None
    layout = layout_of(backbone) if isinstance(pipeline.input, ImageInput) else "contiguous"
    weights = {str(p.stride()) for p in backbone.parameters() if p.ndim == 4 and not p.is_contiguous()}
    code = [source_of(name) for name in ("zoo.training.pipeline", "zoo.features.extraction")]
    words = [str(text) for text in told]
    return setup_key(
        pipeline.device, *words, repr(pipeline.input), drawing, layout, str(sorted(weights)), *code,
        str(batch_of(pipeline.device)), precision,
    )  # fmt: skip


def drawing_of(view: str, level: str = "", seed: int = 0, short_edge: int | None = None) -> str:
    """All that decides what a view draws and reads, as a text; see :class:`Asked`."""
    return repr((view, level, seed, short_edge))


def moved(features: Any, device: torch.device) -> Any:
    """Features on the device, those of a pyramid too."""
    return features.to(device) if isinstance(features, Tensor) else [level.to(device) for level in features]
