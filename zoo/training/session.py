"""Around a run: how its end is told, and what a resume must find as it was."""

from __future__ import annotations

import errno
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from zoo_registry import RunStoppedError, UsageError

import zoo
from zoo.data.bad import write_bad_samples
from zoo.data.changes import describe_changes, list_samples, read_listing, write_listing, written_since
from zoo.data.dataset import Dataset
from zoo.files import write_json
from zoo.runs import RunFolder
from zoo.training.limits import is_out_of_memory
from zoo.training.progress import Reporter
from zoo.training.run import TrainingRun
from zoo.training.signals import InterruptedRunError, StopSignal

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a system says of a full disk, a used-up quota, a limit on the size of files."""


@contextmanager
def told_ends(hint: str, stop: StopSignal) -> Iterator[None]:
    """What ends a run from outside becomes a RunStoppedError with the exit code 8, or says which signal it was."""
    try:
        yield
    except InterruptedRunError:
        raise
    except Exception as error:
        if stop.requested:  # data workers got the signal too, and their loss was noticed first
            raise stop.error() from error
        if is_out_of_memory(error):
            raise RunStoppedError(
                "out of memory",
                hint="a new run with a smaller --batch-size, and --set train.accumulate=2 for the same effective batch",
            ) from error
        if isinstance(error, OSError):
            where = f"{error.filename!r}: " if error.filename else ""
            if error.errno in FULL:
                hint = f"make room; then {hint}"
            raise RunStoppedError(f"the run stopped: {where}{error.strerror or error}", hint=hint) from error
        raise


@contextmanager
def listed_bad(path: Path, run: TrainingRun, reporter: Reporter) -> Iterator[None]:
    """However the run ends, the unreadable samples met so far are listed in ``path``, and it is said."""
    try:
        yield
    finally:
        if len(run.bad):
            with suppress(OSError):  # a full disk is reported already
                write_bad_samples(path, run.bad.rows)
            first = run.bad.rows[0]
            reporter.note(
                f"{len(run.bad)} samples could not be read and were left out, the first is {first.id!r} "
                f"({first.reason}); {path.name} lists them"
            )


def write_circumstances(folder: RunFolder, data: Dataset, device: torch.device) -> None:
    """Note what :func:`check_circumstances` compares."""
    write_listing(folder.listing, data)
    write_json(folder.circumstances, {**_circumstances(data, device), "started": time.time()})


def check_circumstances(folder: RunFolder, data: Dataset, device: torch.device) -> list[str]:
    """A resumed run must see the data it started with; what else differs is worth a line each.

    Raises:
        UsageError: the data differs, or nothing is known of the run.
    """
    try:
        known = json.loads(folder.circumstances.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{str(folder.circumstances)!r} cannot be read ({error})", hint="start a new run") from error
    now = _circumstances(data, device)
    if known.get("data") != now.pop("data"):
        raise UsageError(
            f"the data is not what the run in {str(folder.path)!r} started with: {_changes(folder, data)}",
            hint="bring the data back as it was, or start a new run",
        )
    late = written_since(data, float(known.get("started", math.inf)))
    notes = [
        f"{len(late)} files of the data were written after the run started, the first is {name!r}: if their content "
        "is another, so is the result"
        for name in late[:1]
    ]
    return notes + [
        f"the run started with {name} {known.get(name)}, now it is {value}: results may differ in the last digits"
        for name, value in now.items()
        if known.get(name) != value
    ]


def _changes(folder: RunFolder, data: Dataset) -> str:
    """What is said of data that changed."""
    try:
        found = describe_changes(read_listing(folder.listing), list_samples(data))
    except (OSError, EOFError, ValueError):
        found = ""
    return found or "names, sizes or labels changed"


def _circumstances(data: Dataset, device: torch.device) -> dict[str, str]:
    return {"data": data.fingerprint, "device": device.type, "torch": torch.__version__, "zoo": zoo.__version__}
