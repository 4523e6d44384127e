"""Streams of data beside ``train``: endless, placed by the step, a pure function of (seed, phase, position)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from zoo_registry import Batch, StrategySpec, Stream, UsageError
from zoo_registry.strategy import merge_streams

from zoo.data.dataset import Dataset, Split
from zoo.data.loader import LoadedBatch, ViewLoader
from zoo.keys import generator
from zoo.training.run import Phase, TrainingRun


def check_streams(specs: Iterable[StrategySpec], data: Dataset) -> dict[str, Stream]:
    """The streams of a phase by name, ``train`` first.

    Raises:
        UsageError: the data has no such stream.
    """
    merged = merge_streams(list(specs))
    for name in merged:
        if name not in data.splits:
            kind = data.description.get("form", "the data")
            raise UsageError(
                f"the recipe needs data of the stream {name!r}, which {kind} does not have",
                hint="leave the strategy out, or bring data that has it",
            )
    return merged


def open_loader(run: TrainingRun, phase: Phase, stream: Stream) -> ViewLoader:
    """A loader of all views of a stream."""
    transforms = {
        view: run.pipeline.transform(
            view, augment=str(phase.recipe.augment), strategies=phase.strategies, stream=stream.name
        )
        for view in stream.views
    }
    return ViewLoader(
        run.data.split(stream.name),
        transforms,
        seed=run.seed,
        stream=stream.name,
        workers=run.workers,
        short_edge=run.short_edge(stream.views, str(phase.recipe.augment)),
        **run.pipeline.loader_options,
    )


def to_batch(run: TrainingRun, split: Split, loaded: LoadedBatch, planned: int) -> Batch:
    """What was loaded, on the device. Unreadable samples are noted and missing.

    A sample that is left alone of several is dropped too: BatchNorm cannot learn from one.
    """
    run.bad.add(loaded.bad)
    if not loaded.ids or (len(loaded.ids) == 1 and planned > 1):
        return Batch(views={}, targets=gather(run, split, []))
    views = {name: run.pipeline.feed(view) for name, view in loaded.views.items()}
    return Batch(views=views, targets=gather(run, split, loaded.ids), ids=loaded.ids)


def gather(run: TrainingRun, split: Split, indices: Sequence[int]) -> dict[str, Tensor] | None:
    """The targets of these samples on the device; None where the split has none."""
    if not split.encoded:
        return None
    chosen = torch.as_tensor(list(indices), dtype=torch.long)
    return {name: values[chosen].to(run.device) for name, values in split.targets.items()}


class EndlessStream:
    """Batches of one stream: pass after pass, each in an order of its own.

    ``ratio`` samples are taken for one of ``train``: a micro-batch that starts at sample i of an epoch starts here at
    position ``(epoch * N + i) * ratio``, with N samples in ``train``, so a resume finds its place by the step alone.

    Args:
        run: the run.
        phase: the phase.
        stream: name, views and ratio.
    """

    def __init__(self, run: TrainingRun, phase: Phase, stream: Stream) -> None:
        self.run, self.stream = run, stream
        self.split = run.data.split(stream.name)
        self._loader = open_loader(run, phase, stream)
        self._orders: dict[int, list[int]] = {}

    def batches(self, epoch: int, steps: Sequence[Sequence[range]]) -> Iterator[Batch]:
        """A batch for each micro-batch of these steps of an epoch of ``train``."""
        begun, ratio = epoch * len(self.run.train), self.stream.ratio
        plan = []
        for span in (span for step in steps for span in step):
            positions = range((begun + span.start) * ratio, (begun + span.stop) * ratio)
            plan.append([(self._at(position), position) for position in positions])
        for loaded, draws in zip(self._loader.batches(plan, epoch=(self.run.phase,)), plan, strict=True):
            yield to_batch(self.run, self.split, loaded, len(draws))

    def _at(self, position: int) -> int:
        number, place = divmod(position, len(self.split))
        if number not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k >= number - 1}
            draw = generator(self.run.seed, self.run.phase, number, "order", self.stream.name)
            self._orders[number] = torch.randperm(len(self.split), generator=draw).tolist()
        return self._orders[number][place]

    def close(self) -> None:
        """Stop the workers."""
        self._loader.close()


def open_streams(run: TrainingRun, phase: Phase, streams: Mapping[str, Stream]) -> list[EndlessStream]:
    """All streams but ``train``."""
    return [EndlessStream(run, phase, stream) for name, stream in streams.items() if name != "train"]
