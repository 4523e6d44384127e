"""Batches of views from worker processes, the same bits for any number of workers.

What a batch holds is said by a plan, and what a sample looks like by (seed, epoch, draw, stream, view): the loader has
no state of its own, so a run resumes anywhere by giving the rest of the plan.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from zoo_registry.errors import RunStoppedError

from zoo.data.bad import BadRow
from zoo.data.dataset import BadSample, Split
from zoo.data.making import SampleMaker
from zoo.data.prefetch import prefetched
from zoo.data.workers import start_worker, waiting, watch

Draw = tuple[int, int]
"""Index of a sample in its split, and the number of the draw in the epoch: the key of its randomness."""


@dataclass
class LoadedBatch:
    """A batch as loaded.

    Attributes:
        views: view name -> uint8 [B, C, H, W] for images, or what ``collate`` made.
        ids: indices in the split of the B samples that could be read, in the order of the plan.
        draws: their draws.
        bad: rows of those that could not; nothing stands in for them, B may even be 0 (then ``views`` is empty).
    """

    views: dict[str, Any]
    ids: list[int]
    draws: list[int]
    bad: list[BadRow] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def pin_memory(self) -> LoadedBatch:
        """Called by torch where ``pin_memory`` is asked for."""
        for name, view in self.views.items():
            if isinstance(view, Tensor):
                self.views[name] = view.pin_memory()
        return self


def stack(samples: Sequence[Tensor]) -> Tensor:
    """The collate function of images: [B, C, H, W], in memory as [B, H, W, C] whatever the layout of the samples.

    That is how decoders and resizing leave them, and what convolutions like best.
    """
    if samples[0].ndim != 3:
        return torch.stack(list(samples)).contiguous()
    return torch.stack([sample.permute(1, 2, 0) for sample in samples]).contiguous().permute(0, 3, 1, 2)


@dataclass(eq=False)
class _Maker:
    """What a worker has: reads, transforms and collates the samples of one batch of the plan."""

    maker: SampleMaker
    collate: Callable[[Sequence[Any]], Any]

    def __len__(self) -> int:
        return len(self.maker.split)

    def __getitem__(self, request: tuple[Hashable, Sequence[Draw]]) -> LoadedBatch:
        with one_thread():
            return self._batch(*request)

    def _batch(self, epoch: Hashable, draws: Sequence[Draw]) -> LoadedBatch:
        split = self.maker.split
        made: dict[str, list[Any]] = {name: [] for name in self.maker.views}
        batch = LoadedBatch({}, [], [])
        for index, draw in draws:
            try:
                sample = self.maker.make(index, draw, epoch)
            except BadSample as error:
                batch.bad.append(BadRow(split.name, split.ids[index], error.reason))
                continue
            for name, view in sample.items():
                made[name].append(view)
            batch.ids.append(index)
            batch.draws.append(draw)
        if batch.ids:
            batch.views = {name: self.collate(samples) for name, samples in made.items()}
        return batch


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, as in a worker: for small images, waking others takes longer than the work."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


class _Plan:
    """The sampler of the loader: one request a batch; the plan is exchanged between epochs, the workers stay."""

    def __init__(self) -> None:
        self.epoch: Hashable = 0
        self.plan: Iterable[Sequence[Draw]] = ()

    def __iter__(self) -> Iterator[tuple[Hashable, Sequence[Draw]]]:
        epoch = self.epoch  # asked for batch by batch: a plan may be longer than fits into memory
        return ((epoch, batch) for batch in self.plan)


def _itself(batch: LoadedBatch) -> LoadedBatch:
    return batch


class ViewLoader:
    """Loads views of a split.

    Args:
        split: where samples come from.
        views: view name -> transform ``(sample, generator) -> sample``; images come as uint8 [C, H, W].
        seed, stream: parts of the key of every draw.
        workers: processes that stay alive until :meth:`close`; 0 loads in this process.
        collate: list of samples -> batch; stacks tensors by default.
        pin_memory: put batches in pinned memory, for copies to a CUDA device.
        device: a CUDA device gets the batches ahead of their use; others get them from the caller.
        short_edge: large images may be decoded so small, for training; None reads them exactly.
    """

    def __init__(
        self,
        split: Split,
        views: Mapping[str, Callable[..., Any]],
        *,
        seed: int = 0,
        stream: str = "train",
        workers: int = 0,
        collate: Callable[[Sequence[Any]], Any] = stack,
        pin_memory: bool = False,
        device: torch.device | None = None,
        short_edge: int | None = None,
    ) -> None:
        self.split = split
        self.workers = workers
        self.device = device or torch.device("cpu")
        self._plan = _Plan()
        # The generator is the loader's own: without it, starting an epoch would draw from torch's global one.
        self._loader: DataLoader[LoadedBatch] | None = DataLoader(
            _Maker(SampleMaker(split, views, seed, stream, short_edge), collate),
            batch_size=None,
            sampler=self._plan,
            num_workers=workers,
            collate_fn=_itself,
            worker_init_fn=start_worker,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator(),
        )

    def batches(self, plan: Iterable[Sequence[Draw]], epoch: Hashable = 0) -> Iterator[LoadedBatch]:
        """One batch for each entry of the plan, in order. ``epoch`` is part of the key: an int, or a tuple of ints.

        Only one iteration at a time; starting another ends the one before.

        Raises:
            RunStoppedError: a worker process died.
        """
        if self._loader is None:
            raise RuntimeError("the loader is closed")
        self._plan.epoch, self._plan.plan = epoch, plan
        try:
            yield from prefetched(self._waited(), self.device)
        except (RuntimeError, EOFError, OSError) as error:  # EOFError: it died with a batch still to be handed over
            if "DataLoader worker" not in str(error) and not self._lost_worker():
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise RunStoppedError(
                f"a data worker died: {reason}", hint="resume with fewer workers (--workers 0)"
            ) from error

    def _waited(self) -> Iterator[LoadedBatch]:
        """The batches; the death of a worker raises in here alone, and not in what is done with a batch."""
        assert self._loader is not None
        if not self.workers:
            yield from self._loader
            return
        with waiting():
            iterator = iter(self._loader)
        watch()
        while True:
            with waiting():
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch

    def _lost_worker(self) -> bool:
        """Whether a worker is dead, or about to be (the pipe breaks a moment before the process is gone)."""
        workers = getattr(getattr(self._loader, "_iterator", None), "_workers", ())
        until = time.monotonic() + 1
        try:
            while workers and time.monotonic() < until:
                if not all(worker.is_alive() for worker in workers):
                    return True
                time.sleep(0.02)
        except RuntimeError:  # torch's own signal handler noticed it meanwhile
            return True
        return False

    def close(self) -> None:
        """End the worker processes, also one that waits for a file."""
        iterator, self._loader = getattr(self._loader, "_iterator", None), None
        if iterator is not None:
            with suppress(RuntimeError):  # a worker that had died already; the others are ended all the same
                iterator._shutdown_workers()
            for worker in getattr(iterator, "_workers", ()):
                if worker.is_alive():
                    worker.kill()

    def __enter__(self) -> ViewLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class InOrder(Sequence[list[Draw]]):
    """The plan that reads every sample once, in data order; its batches are made as they are asked for.

    Args:
        count: number of samples.
        batch_size: samples a batch.
    """

    def __init__(self, count: int, batch_size: int) -> None:
        self.total = count
        self.starts = range(0, count, batch_size)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Any) -> Any:
        """A batch, or a list of batches."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start = self.starts[index]
        return [(i, i) for i in range(start, min(start + self.starts.step, self.total))]


def in_order(count: int, batch_size: int) -> Sequence[list[Draw]]:
    """The plan that reads every sample once, in data order: evaluation and extraction."""
    return InOrder(count, batch_size)
