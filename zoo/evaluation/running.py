"""Keeping the device busy: batches loaded beside the model's work, results read back while the next batch runs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo.compute.allocator import pages_kept
from zoo.data.loader import Draw, LoadedBatch, ViewLoader, in_order

if TYPE_CHECKING:
    from zoo.data.dataset import Split
    from zoo.training.pipeline import Pipeline

TIMED = 2
"""Batches that are loaded in this process and timed before it is decided how many others to start."""

SHORT = 1.0
"""Seconds of loading ahead below which no process is started: to start some and to end them takes a tenth of it."""

Plan = Iterable[Sequence[Draw]]


def iterate_batches(
    split: Split, pipeline: Pipeline, *, batch_size: int = 64, workers: int | None = 0, plan: Plan | None = None
) -> Iterator[LoadedBatch]:
    """Loaded batches under the evaluation view (``views["eval"]``, ``ids``, ``bad``); exact, whatever the workers.

    Args:
        split: what to read.
        pipeline: the model's input side.
        batch_size: samples at once.
        workers: processes that decode; None times the first batches, and the caller's work on them, and decides.
        plan: which batches; the whole split in order by default. It is read as it goes.
    """
    plan = in_order(len(split), batch_size) if plan is None else plan
    with pages_kept():
        if workers is None:
            yield from _choosing(split, pipeline, iter(plan))
        else:
            yield from _batches(split, pipeline, plan, workers)


def _batches(split: Split, pipeline: Pipeline, plan: Plan, workers: int) -> Iterator[LoadedBatch]:
    views = {"eval": pipeline.transform("eval")}
    with ViewLoader(split, views, stream="eval", workers=workers, **pipeline.loader_options) as loader:
        yield from loader.batches(plan)


def _choosing(split: Split, pipeline: Pipeline, plan: Iterator[Sequence[Draw]]) -> Iterator[LoadedBatch]:
    """The first batches from this process, the others from as many as these have shown to pay."""
    from zoo.data.supply import core_count, worker_count

    load = work = 0.0
    first = list(islice(plan, TIMED))
    begun = time.perf_counter()
    for batch in _batches(split, pipeline, first, 0):
        count = max(1, len(batch) + len(batch.bad))
        loaded = time.perf_counter()
        yield batch
        done = time.perf_counter()
        load, work, begun = (loaded - begun) / count, (done - loaded) / count, done  # of the last: the first warms up
    ahead: list[Sequence[Draw]] = []
    samples, enough = 0, math.ceil(SHORT / max(load, 1e-6)) + 1
    for draws in plan:
        ahead.append(draws)
        samples += len(draws)
        if samples >= enough:
            break
    if ahead:
        kind = pipeline.device.type
        workers = worker_count(load, work, samples, device=kind, cores=core_count(), short=SHORT)
        yield from _batches(split, pipeline, chain(ahead, plan), workers)


class Feed:
    """Feeds batches to a model that keeps none of them; on a CPU all go through one piece of memory.

    Args:
        pipeline: the model's input side.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._memory: Tensor | None = None

    def __call__(self, batch: Any) -> Any:
        """The batch as the model takes it, valid until the next call."""
        if self.pipeline.device.type != "cpu" or not isinstance(batch, Tensor) or batch.dtype != torch.uint8:
            return self.pipeline.feed(batch)
        if self._memory is None or self._memory.shape[1:] != batch.shape[1:] or len(self._memory) < len(batch):
            self._memory = torch.empty(batch.shape)
        return self.pipeline.feed(batch, self._memory[: len(batch)])


class Readback:
    """Results on their way from the device; on CUDA nobody waits until they are asked for.

    Args:
        values: name -> tensor [B, ...].
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        cuda = any(value.is_cuda for value in values.values())
        self._values = {name: value.float().to("cpu", non_blocking=cuda) for name, value in values.items()}
        self._done = torch.cuda.current_stream().record_event() if cuda else None

    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> float32 array, in memory of its own."""
        if self._done is None:
            return {name: value.numpy() for name, value in self._values.items()}
        self._done.synchronize()
        return {name: value.numpy().copy() for name, value in self._values.items()}  # pinned memory is scarce
