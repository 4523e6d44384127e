"""Batches on their way to a CUDA device while the one before is worked on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from zoo.data.loader import LoadedBatch


def prefetched(batches: Iterable[LoadedBatch], device: torch.device) -> Iterator[LoadedBatch]:
    """The same batches, tensors on the device, each copied one batch ahead on a stream of its own.

    The copies do not wait where the batches are in pinned memory. On other devices the batches come as they are.
    """
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)
    before: tuple[LoadedBatch, torch.cuda.Event] | None = None
    for batch in batches:
        after = _sent(batch, device, stream)
        if before is not None:
            yield _arrived(*before, device)
        before = after
    if before is not None:
        yield _arrived(*before, device)


def _sent(batch: LoadedBatch, device: torch.device, stream: torch.cuda.Stream) -> tuple[LoadedBatch, torch.cuda.Event]:
    with torch.cuda.stream(stream):
        for name, view in batch.views.items():
            if isinstance(view, Tensor):
                batch.views[name] = view.to(device, non_blocking=True)
        return batch, stream.record_event()


def _arrived(batch: LoadedBatch, done: torch.cuda.Event, device: torch.device) -> LoadedBatch:
    """The batch, for use on the current stream: it waits, this process does not."""
    current = torch.cuda.current_stream(device)
    current.wait_event(done)
    for view in batch.views.values():
        if isinstance(view, Tensor):
            view.record_stream(current)  # else the allocator would hand its memory out again too early
    return batch
