"""The pass that computes features: no gradients, batches of a fixed size, the layout that is fastest, float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo.compute.computing import as_float32
from zoo.data.loader import ViewLoader, in_order
from zoo.evaluation.predictions import join_features
from zoo.features.store import Entry

if TYPE_CHECKING:
    from zoo.data.dataset import Split
    from zoo.training.pipeline import Pipeline

BATCH = {"cpu": 32, "cuda": 128}
"""Samples at once, by device: on a CPU the layers' outputs of more fall out of its caches, a GPU wants more to do."""
OTHER_BATCH = 64
STREAM = "features"
"""Part of the key of what an augmented view draws."""


def batch_of(device: torch.device) -> int:
    """Samples of a batch; part of the features' key, for the last bits may depend on it."""
    return BATCH.get(device.type, OTHER_BATCH)


def layout_of(backbone: nn.Module) -> str:
    """``channels_last`` where most layers with weights are convolutions, which are faster so, else ``contiguous``.

    The numbers are float32 either way; their sums run in another order, so their last bits differ.
    """
    convolutions = sum(isinstance(m, nn.Conv2d) for m in backbone.modules())
    linears = sum(isinstance(m, nn.Linear) for m in backbone.modules())
    return "channels_last" if convolutions > 1 and convolutions > linears else "contiguous"


@contextmanager
def laid_out(pipeline: Pipeline, layout: str) -> Iterator[None]:
    """The pipeline makes images of this layout for a while."""
    before, pipeline.memory_format = pipeline.memory_format, layout
    try:
        yield
    finally:
        pipeline.memory_format = before


def compute(
    backbone: nn.Module,
    split: Split,
    pipeline: Pipeline,
    views: Mapping[str, Any],
    *,
    layout: str,
    batch: int,
    precision: str = "float32",
    seed: int = 0,
    short_edge: int | None = None,
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Entry]:
    """View name -> features of every readable sample of the split, in order; each sample is decoded once.

    Args:
        backbone: on its device, in evaluation mode.
        split: the samples.
        pipeline: of the backbone's input.
        views: name -> transform; what one draws depends on the seed, its name and the sample's place alone.
        layout: of the images, ``contiguous`` or ``channels_last``.
        batch: samples at once.
        precision: ``float32``, or ``bf16`` for autocast, the results of which are made float32.
        seed: of the draws.
        short_edge: large images may be decoded so small; None reads them exactly.
        workers: processes that decode.
        progress: told the number of samples of each batch.
    """
    parts: dict[str, list[Any]] = {name: [] for name in views}
    rows: list[int] = []
    reasons: dict[str, str] = {}
    loading: dict[str, Any] = {"seed": seed, "stream": STREAM, "workers": workers, "short_edge": short_edge}
    with laid_out(pipeline, layout), ViewLoader(split, views, **loading, **pipeline.loader_options) as loader:
        for loaded in loader.batches(in_order(len(split), batch)):
            reasons |= {row.id: row.reason for row in loaded.bad}
            rows += loaded.ids
            for name, view in loaded.views.items():
                parts[name].append(_features(backbone, pipeline.feed(view), pipeline.device, precision))
            if progress is not None:
                progress(len(loaded.ids) + len(loaded.bad))
    bad = [(place, reasons[name]) for place, name in enumerate(split.ids) if name in reasons] if reasons else []
    return {n: Entry(join_features(p) if p else torch.empty(0), rows, bad) for n, p in parts.items()}


@torch.no_grad()
def _features(backbone: nn.Module, x: Any, device: torch.device, precision: str) -> Any:
    if precision == "float32":
        return backbone(x)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        found = backbone(x)
    return as_float32(found)
