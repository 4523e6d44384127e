"""How many samples fit into the device's memory at once, as a run has found out.

Where a step runs out of memory, its micro-batches are halved and their gradients added up: the step still learns from
the same samples, each with the same weight. The run goes back to its newest checkpoint and takes that step, and all
that follow, in smaller parts. From which step on is written down at once, so a resume from any checkpoint computes the
same bits. An evaluation that runs out of memory is begun anew with fewer samples at once.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from zoo_registry import RunStoppedError, ZooError

from zoo.files import write_json

T = TypeVar("T")
Mark = tuple[int, int, int]
"""Phase, step of the phase, and the most samples at once from there on."""

ALLOCATION = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "out of memory")
"""What other errors of torch say where memory could not be had."""


class SmallerStepsError(ZooError):
    """A step ran out of memory: the run is to go on from its newest checkpoint, in smaller micro-batches."""


class Limits:
    """The limits of one run.

    Args:
        path: the file that keeps them; None keeps them in memory alone.

    Attributes:
        steps: of the micro-batches of a step.
        evaluations: of passes without gradients.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.steps: list[Mark] = []
        self.evaluations: list[Mark] = []
        if path is not None and path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            self.steps = [(mark[0], mark[1], mark[2]) for mark in known["steps"]]
            self.evaluations = [(mark[0], mark[1], mark[2]) for mark in known["evaluations"]]

    def lower(self, marks: list[Mark], phase: int, step: int, size: int) -> None:
        """From this step on at most ``size`` samples at once; on disk when this returns."""
        marks.append((phase, step, size))
        if self.path is not None:
            write_json(self.path, {"steps": self.steps, "evaluations": self.evaluations})

    def begins(self, phase: int, step: int) -> int | None:
        """The limit that is new at this step; None where none is."""
        return min((size for p, s, size in self.steps if (p, s) == (phase, step)), default=None)

    def split(self, step: Sequence[range], phase: int, number: int) -> list[range]:
        """The spans of micro-batches of step ``number``, in parts of nearly equal size that keep to the limit.

        A part of one sample is not made of larger ones: BatchNorm cannot learn from one; with a limit of 1 all are.
        """
        most = limit_at(self.steps, phase, number)
        return list(step) if most is None else [part for span in step for part in parts(span, most)]


def limit_at(marks: Sequence[Mark], phase: int, step: int) -> int | None:
    """The limit that holds at a step; None where there is none yet."""
    return min((size for p, s, size in marks if (p, s) <= (phase, step)), default=None)


def parts(span: range, most: int) -> list[range]:
    """``span`` in parts of nearly equal length, at most ``most``; where that is 2 or more, no part is a single one."""
    count = -(-len(span) // most)
    if most > 1:
        count = min(count, max(1, len(span) // 2))
    edges = [span.start + i * len(span) // count for i in range(count + 1)] if count else [span.start]
    return [range(start, stop) for start, stop in pairwise(edges)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is what was lacking, of the device or of the process."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATION)


def release_memory() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def learns_batch_statistics(model: nn.Module) -> bool:
    """Whether the model has BatchNorm that takes its statistics from the batch."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in model.modules())


def smaller_steps(limits: Limits, model: nn.Module, *, phase: int, step: int, size: int) -> ZooError:
    """What to raise where a step of micro-batches of up to ``size`` samples ran out of memory.

    Returns:
        :class:`SmallerStepsError`, with the new limit on disk; or RunStoppedError where there is nothing to halve, or
        no file to remember it in.
    """
    norm = learns_batch_statistics(model)
    known = limit_at(limits.steps, phase, step)
    size, least = size if known is None else min(size, known), 2 if norm else 1
    where, half = f"phase {phase + 1}, step {step + 1}", max(least, -(-size // 2))
    if limits.path is None or size <= least or half >= size:
        samples = "a single sample" if size == 1 else f"{size} samples at once"
        why = ", and BatchNorm needs two" if norm and size == 2 else ""
        return RunStoppedError(
            f"out of memory at {where}: {samples} did not fit{why}",
            hint="a smaller backbone, a smaller --image-size, or a strategy that trains less of it, such as linear",
        )
    limits.lower(limits.steps, phase, step, half)
    seen = "; BatchNorm sees the smaller ones, so its statistics are noisier" if norm else ""
    return SmallerStepsError(
        f"out of memory at {where} with {size} samples at once: going back to the newest checkpoint; from that step on "
        f"micro-batches of up to {half} make the same steps{seen}"
    )


def fitting(
    work: Callable[[int], T], limits: Limits, say: Callable[[str], None], *, phase: int, step: int, size: int
) -> T:
    """``work(size)``, begun anew with half the samples at once as long as it runs out of memory.

    Raises:
        RunStoppedError: even a single sample does not fit.
    """
    known = limit_at(limits.evaluations, phase, step)
    size = size if known is None else min(size, known)
    while True:
        try:
            return work(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if size == 1:
            raise RunStoppedError(
                "out of memory: a single sample does not fit, even without gradients",
                hint="a smaller backbone, or a smaller --image-size",
            )
        release_memory()
        say(f"out of memory while evaluating {size} samples at once: beginning anew with {-(-size // 2)}")
        size = -(-size // 2)
        limits.lower(limits.evaluations, phase, step, size)
