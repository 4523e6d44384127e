"""What a run costs while it runs: samples a second, the share of the time spent waiting for input, memory.

These are measurements of one machine on one day. They go to ``machine.jsonl``, apart from ``metrics.jsonl``, whose
bytes are the same in every run of one recipe.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch

T = TypeVar("T")

INPUT_BOUND = 0.3
"""Share of an epoch's time above which a run that waits for its input is told so."""
LONG_ENOUGH = 5.0
"""Seconds that an epoch must take for that: what is over at once needs no advice."""


class Watch:
    """Times the epochs of a phase. A step costs two looks at the clock.

    Args:
        device: whose memory is looked at, beside the process's own.

    Attributes:
        waited: seconds of the epoch in which the loop had no batch to work on.
        steps, samples: of the epoch so far, in this process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.begin()

    def begin(self) -> None:
        """An epoch begins, or goes on after a resume."""
        self.begun = time.perf_counter()
        self.waited = 0.0
        self.steps = self.samples = 0

    def feed(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, and what they were waited for."""
        source, clock = iter(batches), time.perf_counter
        while True:
            asked = clock()
            try:
                batch = next(source)
            except StopIteration:
                return
            self.waited += clock() - asked
            yield batch

    def count(self, samples: int) -> None:
        """A step of so many samples is done."""
        self.steps += 1
        self.samples += samples

    def row(self) -> dict[str, Any]:
        """The epoch's training part up to now.

        Returns:
            ``seconds``, ``steps`` and ``samples`` of it in this process, ``samples_per_second``, ``wait_share`` (of
            ``seconds``), ``rss_peak_bytes`` of the process since it started (None where unknown), and on CUDA
            ``cuda_peak_bytes`` allocated since then.
        """
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = max(time.perf_counter() - self.begun, 1e-9)
        row: dict[str, Any] = {"seconds": seconds, "steps": self.steps, "samples": self.samples}
        row |= {"samples_per_second": self.samples / seconds, "wait_share": min(1.0, self.waited / seconds)}
        row["rss_peak_bytes"] = peak_rss()
        if self.device.type == "cuda":
            row["cuda_peak_bytes"] = torch.cuda.max_memory_allocated(self.device)
        return row


def peak_rss() -> int | None:
    """Most bytes that the process ever had in memory, data workers not counted; None where the system cannot say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def input_hint(
    row: Mapping[str, Any], *, workers: int | str, images: bool = True, cached: bool = False, cores: int | None = None
) -> str | None:
    """What to do about a run that waits for its input; None where it does not wait long.

    Args:
        row: of :meth:`Watch.row`.
        workers: processes that load the data now; ``auto`` where their number was measured.
        images: whether the samples are images.
        cached: features were computed once, so nothing is decoded any more.
        cores: that this process may use; counted by default.
    """
    cores = cores if cores is not None else usable_cores()
    if cached or row["wait_share"] <= INPUT_BOUND or row["seconds"] < LONG_ENOUGH:
        return None
    steps = []
    if isinstance(workers, int) and workers < cores:
        steps.append(f"more processes that load (--workers {cores}, now {workers})")
    if images:
        steps += ["a smaller --image-size", "images stored smaller"]
    steps.append("a frozen backbone with --augment none (its features are computed once)")
    return (
        f"the run waits for its input: {row['wait_share']:.0%} of this epoch, "
        f"{row['samples_per_second']:.0f} samples/s; what may help: {'; '.join(steps)}"
    )
