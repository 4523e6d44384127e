"""Around a run: how its end is told, and what a resume must find as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from zoo_registry import RunStoppedError, UsageError

import zoo
from zoo.data.bad import write_bad_samples
from zoo.data.dataset import Dataset
from zoo.files import write_json
from zoo.runs import RunFolder
from zoo.training.run import TrainingRun
from zoo.training.signals import InterruptedRunError, StopSignal


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
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise RunStoppedError(
                "out of memory",
                hint="a new run with a smaller --batch-size, and --set train.accumulate=2 for the same effective batch",
            ) from error
        if isinstance(error, OSError):
            where = f"{error.filename!r}: " if error.filename else ""
            raise RunStoppedError(f"the run stopped: {where}{error.strerror or error}", hint=hint) from error
        raise


@contextmanager
def listed_bad(path: Path, run: TrainingRun) -> Iterator[None]:
    """However the run ends, the unreadable samples met so far are listed in ``path``."""
    try:
        yield
    finally:
        if len(run.bad):
            with suppress(OSError):  # a full disk is reported already
                write_bad_samples(path, run.bad.rows)


def write_circumstances(folder: RunFolder, data: Dataset, device: torch.device) -> None:
    """Note what :func:`check_circumstances` compares."""
    write_json(folder.circumstances, _circumstances(data, device))


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
            f"the data is not what the run in {str(folder.path)!r} started with (names, sizes or labels changed)",
            hint="bring the data back as it was, or start a new run",
        )
    return [
        f"the run started with {name} {known.get(name)}, now it is {value}: results may differ in the last digits"
        for name, value in now.items()
        if known.get(name) != value
    ]


def _circumstances(data: Dataset, device: torch.device) -> dict[str, str]:
    return {"data": data.fingerprint, "device": device.type, "torch": torch.__version__, "zoo": zoo.__version__}
