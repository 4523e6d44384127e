"""The run folder: what a run leaves behind, and how it is found again.

::

    RUN/recipe.toml  run.json  data.tsv.gz  metrics.jsonl  machine.jsonl  report.json  bad_samples.csv  curves.png
        trackers.json  checkpoints/  model/ (the bundle)
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from zoo_registry import ConflictError, UsageError

LOCK = ".lock"
"""Name of the file by which a process holds the folder, see :mod:`zoo.training.lock`."""
FOUND_RATES = ("find-lr.json", "find-lr.png")
"""What the learning-rate finder leaves in a folder that may become a run."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.toml"

    @property
    def circumstances(self) -> Path:
        """What a resume must find again: the data's fingerprint, device and versions."""
        return self.path / "run.json"

    @property
    def listing(self) -> Path:
        """The samples that the run started with, see :mod:`zoo.data.changes`."""
        return self.path / "data.tsv.gz"

    @property
    def metrics(self) -> Path:
        """The log, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def machine(self) -> Path:
        """What each epoch cost on this machine: speed, waiting, memory. It differs from run to run."""
        return self.path / "machine.jsonl"

    @property
    def trackers(self) -> Path:
        """The trackers that the run reports to, for a resume."""
        return self.path / "trackers.json"

    @property
    def limits(self) -> Path:
        """How many samples fit into memory at once, where a run found that out; see :mod:`zoo.training.limits`."""
        return self.path / "limits.json"

    @property
    def report(self) -> Path:
        """The final evaluation."""
        return self.path / "report.json"

    @property
    def bad_samples(self) -> Path:
        """Unreadable samples."""
        return self.path / "bad_samples.csv"

    @property
    def curves(self) -> Path:
        """Loss, metrics and rate of each epoch as a figure."""
        return self.path / "curves.png"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The bundle."""
        return self.path / "model"

    def is_run(self) -> bool:
        """Whether a run started here."""
        return self.recipe.is_file()

    def is_complete(self) -> bool:
        """Whether the run reached its end."""
        return (self.model / "manifest.json").is_file()

    def refuse_existing(self) -> None:
        """A new run needs a new folder.

        Raises:
            ConflictError: there is a run, or something else, already.
        """
        if self.is_run():
            state = "a finished run" if self.is_complete() else "an unfinished run"
            hint = "choose another --out" + (
                ""
                if self.is_complete()
                else f", or go on with it: zoo finetune --resume --out {shlex.quote(str(self.path))}"
            )
            raise ConflictError(f"{str(self.path)!r} holds {state}", hint=hint)
        harmless = (LOCK, *FOUND_RATES)
        if self.path.is_file() or (self.path.is_dir() and any(p.name not in harmless for p in self.path.iterdir())):
            raise ConflictError(f"{str(self.path)!r} exists and is not empty", hint="choose another --out")

    def require_resumable(self) -> None:
        """There must be an unfinished run.

        Raises:
            UsageError: there is no run here.
            ConflictError: the run is finished.
        """
        if not self.is_run():
            raise UsageError(f"there is no run in {str(self.path)!r}", hint="--resume goes on with the run in --out")
        if self.is_complete():
            raise ConflictError(
                f"the run in {str(self.path)!r} is finished",
                hint=f"evaluate it: zoo evaluate {shlex.quote(str(self.path))} DATA",
            )


def next_run_folder(root: Path = Path("runs")) -> Path:
    """``runs/N`` for the first N that is free, for runs without ``--out``."""
    number = 1
    while (root / str(number)).exists():
        number += 1
    return root / str(number)
