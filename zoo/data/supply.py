"""How many processes load, and where decoded images are kept: rules of what loading and stepping cost. No torch."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

SHORT = 10.0
"""Seconds of loading in a whole run below which no process is started for it."""
LITTLE = 0.03
"""Share of a step below which loading is not worth a process."""
SPARE = 1.25
"""Beside an accelerator loading is laid out to be so much faster than the steps."""
MOST = 16
"""Worker processes that are started at most without being asked for."""
MEMORY_SHARE, DISK_SHARE, MOST_DISK = 0.25, 0.25, 64 * 2**30
"""Of the free memory and of the free disk that decoded images may take, and bytes on a disk at most."""
EPOCHS = 3
"""Epochs from which on decoded images are worth the writing to a disk."""


@dataclass(frozen=True)
class Storage:
    """Where decoded images are kept.

    Attributes:
        where: ``memory``, ``disk`` or ``off``.
        limit: bytes.
        share: part of the images that fits.
    """

    where: str
    limit: int
    share: float


def worth_workers(load: float, samples: int) -> bool:
    """Whether a run loads so much that starting processes may pay."""
    return load * samples >= SHORT


def worker_count(load: float, step: float, samples: int, *, device: str, cores: int, short: float | None = None) -> int:
    """Processes that load, chosen so that steps do not wait; 0 loads between the steps.

    Args:
        load: seconds to read and transform a sample on one core.
        step: seconds that the device takes for a sample in a training step.
        samples: samples that the run loads in all.
        device: ``cpu`` shares its cores with the workers, others do not.
        cores: that this process may use.
        short: seconds of loading below which no process is started, :data:`SHORT` by default.
    """
    if load * samples < (SHORT if short is None else short) or load < LITTLE * step:
        return 0
    if device == "cpu":
        # A step is split among the cores in equal parts, so a worker on one of them holds up all: that gains nothing
        # over loading between the steps, until loading on all cores at once does.
        return 0 if load < step else min(cores, MOST)
    wanted = SPARE * load / step if step > 0 else cores
    return max(1, math.ceil(min(wanted, cores - 1, MOST)))


def choose_storage(
    asked: str, needed: int, epochs: float, *, memory: int, disk: int, files: bool, limit: int = 0
) -> Storage:
    """Where to keep ``needed`` bytes of decoded images.

    Args:
        asked: ``auto``, ``memory``, ``disk`` or ``off``; auto takes memory, or the disk where only that holds all of
            them, they are files, and they are read in several epochs.
        needed: bytes of all decoded images.
        epochs: how often each is read.
        memory, disk: free bytes; a share of them is used, where ``limit`` does not say how much.
        files: whether the samples are files, whose content can be told without reading it.
        limit: bytes that may be used, 0 for the shares.
    """
    room = limit or int(memory * MEMORY_SHARE)
    space = limit or min(int(disk * DISK_SHARE), MOST_DISK)
    if asked == "off":
        return Storage("off", 0, 0.0)
    if asked == "disk" or (asked == "auto" and room < needed <= space and files and epochs >= EPOCHS):
        return Storage("disk", space, _part(space, needed) if files else 0.0)
    return Storage("memory", room, _part(room, needed))


def _part(room: int, needed: int) -> float:
    return min(1.0, room / needed) if needed else 1.0


def core_count() -> int:
    """Cores that this process may use: its affinity, and the quota of its control group."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # "max", or no control groups
        return cores


def free_disk(folder: Path) -> int:
    """Free bytes where a folder lies or would lie; 0 where that cannot be told."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
