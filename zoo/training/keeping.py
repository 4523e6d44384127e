"""When the state of a phase is kept: after so much time, at the phase's end, and when something ends the run early.

A state is good between two steps, and all through an evaluation: there nothing is half done. So a signal that comes in
a step waits for its end; one that comes while the loop waits for a batch or evaluates breaks in at once, and so does
the death of a data worker.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any, TypeVar

from zoo_registry import RunStoppedError

from zoo.files import write_folder, write_json, write_tensors
from zoo.training.phase_state import capture
from zoo.training.signals import Interrupt

if TYPE_CHECKING:
    from zoo.training.loop import PhaseLoop

T = TypeVar("T")

STOPPED = "stopped"
"""Folder beside the checkpoints, with the last finite weights of a run that numbers stopped."""


class Keeper:
    """Keeps the state of one phase, and ends the run where a signal asks for it.

    Args:
        loop: the phase.

    Attributes:
        kept: step of the newest checkpoint of the phase, and whether the evaluation there was still to come.
    """

    def __init__(self, loop: PhaseLoop) -> None:
        self.loop, self.stop, self.checkpoints = loop, loop.stop, loop.checkpoints
        self.kept = (0, False)
        self._clock = time.monotonic()

    def went_on(self, step: int, open_epoch: bool) -> None:
        """The phase goes on from a checkpoint."""
        self.kept = (step, open_epoch)

    def after_step(self) -> None:
        """Keep the state where it is time to; end the run where a signal came.

        Raises:
            InterruptedRunError: a signal came; the state is on disk.
            OSError: a checkpoint could not be written, this one or the one before.
        """
        if self.checkpoints is not None:
            self.checkpoints.check()
        if self.loop.ended or self.stop.requested:
            self.save()
        elif self._due():
            self.save(wait=False)
        if self.stop.requested:
            raise self.stop.error()

    def waited(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches; what ends the wait for one ends the run, with the state on disk.

        Raises:
            InterruptedRunError, RunStoppedError: a signal came, or a data worker died.
        """
        source, stop = iter(batches), self.stop
        while True:
            stop.waiting = True
            try:
                if stop.requested:  # it came between the last look and the line above
                    raise Interrupt
                batch = next(source)
            except StopIteration:
                return
            except (Interrupt, RunStoppedError):
                self._leave()
                raise
            finally:
                stop.waiting = False
            yield batch

    def evaluated(self, evaluate: Callable[[], T]) -> T:
        """The result of an evaluation that changes nothing; what ends it early ends the run, with the state on disk.

        Raises:
            InterruptedRunError, RunStoppedError: a signal came, or a data worker died.
        """
        run = self.loop.run
        if self.checkpoints is not None and run.workers:
            self.checkpoints.join()  # no process is forked beside a thread
        run.beat, self.stop.waiting = self._beat, True
        try:
            return evaluate()
        except (Interrupt, RunStoppedError):
            self._leave(open_epoch=True)
            raise
        finally:
            run.beat, self.stop.waiting = None, False

    def save(self, *, open_epoch: bool = False, wait: bool = True) -> None:
        """Write a checkpoint; with ``wait=False`` it is on its way when this returns."""
        loop, place = self.loop, (self.loop.run.step, open_epoch)
        if self.checkpoints is None or self.kept == place:
            return
        if self.stop.requested:
            loop.reporter.note(
                f"{Signals(self.stop.number).name}: writing a checkpoint; Ctrl-C again does not wait for it"
            )
        loop.stepper.refuse_broken_weights()
        start = (f"start-{loop.run.phase}",) if loop.run.phase > 0 else ()
        needs, weights = loop.selection.unwritten()
        loop.log.sync()
        self.checkpoints.save(
            loop.run.phase,
            loop.run.step,
            capture(loop, open_epoch=open_epoch),
            needs=(*start, *needs),
            weights=weights,
            open_epoch=open_epoch,
            wait=wait,
        )
        self.kept, self._clock = place, time.monotonic()

    def keep_finite(self, record: Mapping[str, Any]) -> None:
        """Keep the weights as the last good step left them, and what is known of the one that stopped the run.

        They lie beside the checkpoints in ``stopped``: no resume starts from them, for statistics of BatchNorm have
        seen the step that failed; those that are not finite any more are left out.
        """
        row = {"event": "stopped", **plain_numbers(record)}
        self.loop.log.append(row)
        if self.checkpoints is None:
            return
        tensors = self.loop.guard.moving(self.loop.model.state_dict())
        finite = {name: t.detach().cpu() for name, t in tensors.items() if bool(t.isfinite().all())}
        lost = sorted(set(tensors) - set(finite))

        def fill(folder: Path) -> None:
            write_tensors(folder / "weights.safetensors", finite)
            write_json(folder / "stopped.json", {**row, "left_out": lost})

        with suppress(OSError):  # the reason to stop goes first
            self.checkpoints.path.mkdir(parents=True, exist_ok=True)
            write_folder(self.checkpoints.path / STOPPED, fill)

    def close(self) -> None:
        """Let the write under way come to its end; what went wrong is not told, for the run has ended already."""
        if self.checkpoints is not None:
            with suppress(OSError):
                self.checkpoints.join()

    def _due(self) -> bool:
        every = self.loop.run.options.checkpoint_every
        return every > 0 and time.monotonic() - self._clock >= every

    def _beat(self) -> None:
        """A batch of an evaluation is done: a long one is no reason to keep nothing meanwhile."""
        if self._due() and self.kept != (self.loop.run.step, True):
            self.stop.waiting = False
            self.save(open_epoch=True)
            self.stop.waiting = True
            if self.stop.requested:
                raise Interrupt

    def _leave(self, open_epoch: bool = False) -> None:
        """Keep the state once more.

        Raises:
            InterruptedRunError: a signal is why.
        """
        self.stop.waiting = False
        self.save(open_epoch=open_epoch)
        if self.stop.requested:
            raise self.stop.error() from None


def plain_numbers(value: Any) -> Any:
    """Nested values for JSON; numbers that are not finite as the words ``nan``, ``inf`` and ``-inf``."""
    if isinstance(value, Mapping):
        return {name: plain_numbers(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_numbers(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
