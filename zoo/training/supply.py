"""The input side of a run, settled before it starts by timing a few samples. Nothing here changes a bit of a result."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from zoo_registry import DataError

from zoo.compute.choose import BACKWARD, Choice
from zoo.compute.measure import pass_seconds
from zoo.data.dataset import CACHE_BYTES, BadSample, Split
from zoo.data.loader import one_thread
from zoo.data.making import SampleMaker
from zoo.data.stored import StoredPixels, decoded_folder, decoder_versions
from zoo.data.supply import Storage, choose_storage, core_count, free_disk, worker_count, worth_workers
from zoo.preview.memory import free_bytes
from zoo.recipe.recipe import AUTO
from zoo.training.preparing import phase_steps
from zoo.training.rehearsal import Rehearsed
from zoo.training.run import TrainingRun

SAMPLES = 12
SECONDS = 0.5
"""Samples that are timed, fewer where they take longer than this."""


@dataclass(frozen=True)
class Work:
    """How much a run loads.

    Attributes:
        train: samples of ``train`` in all its steps; epochs: how often each is read.
        others: samples read in passes: extraction, validation.
    """

    train: int
    epochs: float
    others: int


def run_work(run: TrainingRun, rehearsed: Sequence[Rehearsed] = ()) -> Work:
    """How much a run loads; where its phases were not rehearsed, as if all of them ran the backbone in each step."""
    size = len(run.train)
    each = min(size, run.options.batch_size * run.options.accumulate)
    phases = rehearsed or [Rehearsed(phase_steps(run, phase), cached=False) for phase in run.phases]
    train = each * sum(phase.steps for phase in phases if not phase.cached)
    epochs = train / max(1, size)
    passes = round(epochs / run.options.evaluate_every) + 1
    extracted = size * sum(phase.cached for phase in phases)
    return Work(train, epochs, extracted + passes * len(run.data.split("val")))


def main_augment(run: TrainingRun) -> str:
    """The level of the train view in the longest phase."""
    return str(max(run.phases, key=lambda phase: phase_steps(run, phase)).recipe.augment)


@dataclass(frozen=True)
class Timed:
    """A few samples of ``train``: seconds a sample, and mean bytes of a decoded one (0 where they are no images)."""

    seconds: float
    bytes: int


def time_samples(run: TrainingRun, view: str, augment: str) -> Timed | None:
    """Read and transform a few samples, spread over ``train``; None where none can be read."""
    split = run.train
    count = min(SAMPLES, len(split))
    few = split.subset(i * len(split) // count for i in range(count))
    few.keep_at(0)
    views = {view: run.pipeline.transform(view, augment=augment)}
    edge = run.short_edge((view,), augment)
    maker = SampleMaker(few, views, 0, "train", edge)
    times: list[float] = []
    sizes: list[int] = []
    until = time.monotonic() + SECONDS
    with one_thread():
        for index in range(count):
            begun = time.perf_counter(), time.process_time()
            try:
                maker.make(index, 0, 0)
            except BadSample:
                continue
            times.append(min(time.perf_counter() - begun[0], time.process_time() - begun[1]))
            sizes.append(int(getattr(few.look(index, edge)[0], "nbytes", 0)) if len(sizes) < 4 else sizes[-1])
            if time.monotonic() > until and len(times) > 1:
                break
    if not times:
        return None
    return Timed(statistics.median(times[1:] or times), round(statistics.mean(sizes)))


def settle_supply(
    run: TrainingRun,
    note: Callable[[str], object],
    rehearsed: Sequence[Rehearsed] = (),
    choice: Choice | None = None,
) -> None:
    """Choose the number of workers where it is ``auto``, and where decoded images are kept.

    Args:
        run: before its first phase; its options say what is asked for, and their ``workers`` becomes a number.
        note: told, in a line, of workers that are started and of images that go to the disk.
        rehearsed: what each phase will do, where that is known.
        choice: the compute path, which may have been measured.
    """
    work = run_work(run, rehearsed)
    timed = time_samples(run, "train", main_augment(run))
    said = []
    if run.options.workers == AUTO:
        workers = 0
        if timed is not None and worth_workers(timed.seconds, work.train + work.others):
            step = _step_seconds(run, work, choice)
            loads = work.train + work.others
            workers = worker_count(timed.seconds, step, loads, device=run.device.type, cores=core_count())
            said = [f"{workers} worker{'s' * (workers > 1)} ({1000 * timed.seconds:.1f} ms a sample)"] * (workers > 0)
        run.settle_workers(workers)
    storage = keep_images(run, work, timed)
    if storage.where == "disk":
        said.append(f"decoded images in {decoded_folder()} ({storage.share:.0%} fit)")
    if said:
        note(f"input: {', '.join(said)}")


def _step_seconds(run: TrainingRun, work: Work, choice: Choice | None) -> float:
    """Of a sample in a training step, or in a pass where nothing else is done."""
    rate = choice.rates.get(choice.path.label()) if choice is not None else None
    try:
        return 1 / rate if rate else pass_seconds(run) * (BACKWARD if work.train else 1.0)
    except DataError:
        return 0.0


def keep_images(run: TrainingRun, work: Work, timed: Timed | None) -> Storage:
    """Set where each split of the run keeps what was decoded."""
    free = free_bytes(torch.device("cpu"))
    options, train, val = run.options, run.train, run.data.split("val")
    views = 0 if timed is None or not timed.bytes else _view_bytes(run) * len(val)
    needed = (timed.bytes * len(train) if timed is not None else 0) + views
    files = bool(len(train)) and isinstance(train.sources[0], (str, Path))
    memory = free if free is not None else 4 * CACHE_BYTES
    storage = choose_storage(
        options.cache, needed, work.epochs, memory=memory, disk=free_disk(decoded_folder()) if files else 0,
        files=files, limit=round(options.cache_gb * 1e9),
    )  # fmt: skip
    if storage.where == "disk":
        stored = StoredPixels(f"{run.data.fingerprint} {decoder_versions()}", storage.limit)
        if stored.open(needed):
            _keep(run.data.splits.values(), [0] * len(run.data.splits), stored)
            return storage
        storage = Storage("off", 0, 0.0)
    mine = min(views, storage.limit // 4)
    limits = {"train": storage.limit - mine, "val": mine}
    most = min(CACHE_BYTES, storage.limit)
    _keep(run.data.splits.values(), [limits.get(name, most) for name in run.data.splits], None)
    return storage


def _keep(splits: Any, limits: Sequence[int], stored: StoredPixels | None) -> None:
    split: Split
    for split, limit in zip(splits, limits, strict=True):
        split.keep_at(limit, stored)


def _view_bytes(run: TrainingRun) -> int:
    size = getattr(run.input, "size", None)
    return 0 if size is None else int(torch.Size(size).numel()) * int(getattr(run.input, "channels", 3))
