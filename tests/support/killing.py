"""Runs in processes of their own that die at a chosen moment, and go on later.

Processes are forked by a server that has imported torch but never used it, so each starts at once.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tiny_runs
import tiny_zoo
from zoo_registry import Registry


class Point(NamedTuple):
    """A moment: the call of a function, by number from 1, before its work or after it, and the signal that comes: to
    the process, its whole group, or its data workers alone; how often.
    """

    function: str
    call: int = 1
    after: bool = False
    signal: int = signal.SIGKILL
    group: bool = False
    workers: bool = False
    times: int = 1


TAKE = "zoo.training.step:Stepper.take"

RECIPES = {
    "plain": ("freeze:2,whole:2", "norm"),
    "averages": ("gradual+ema:3,full+swa+sam:2,full+wise-ft:1", "norm"),
    "rest": ("freeze:2", "norm"),
    "ranks": ("adalora:3", "timm/test_vit"),
}
"""Strategies and backbone: all but the first keep state of their own from step to step."""

POINTS = {
    "in the middle of an epoch": Point(TAKE, 6),
    "in the middle of an evaluation": Point("zoo.training.run:TrainingRun._progressed", 5),
    "between the files of a checkpoint": Point("zoo.training.checkpoint:write_json", 6),
    "between the log's row and the checkpoint": Point("zoo.training.log:MetricsLog.append", 4, after=True),
    "at the border of two phases": Point("zoo.training.loop:PhaseLoop._begin", 2, after=True),
}

MORE_POINTS = {
    "before the first step": Point("zoo.training.feed:Feed.open", 1),
    "before the first checkpoint": Point("zoo.training.keeping:capture", 1),
    "before a checkpoint is copied": Point("zoo.training.checkpoint:CheckpointFolder.save", 6),
    "while a checkpoint is copied": Point("zoo.training.checkpoint:host_copy", 30),
    "once a checkpoint is on its way": Point("zoo.training.checkpoint:_Writing", 5, after=True),
    "while the next waits for it": Point("zoo.training.checkpoint:CheckpointFolder.join", 6),
    "before the log is on the disk": Point("zoo.training.log:MetricsLog.sync", 5),
    "within accumulation": Point("zoo.training.step:Stepper._losses", 12),
    "before the strategies see the gradients": Point("zoo.training.guard:Guard.after_backward", 7),
    "before the optimiser moves": Point("zoo.training.step:Stepper._update", 7),
    "after the weights moved": Point("zoo.training.step:Stepper._update", 7, after=True),
    "before an evaluation": Point("zoo.training.loop:PhaseLoop._evaluate", 2),
    "after an evaluation": Point("zoo.training.loop:PhaseLoop._evaluate", 3, after=True),
    "before the best weights are written": Point("zoo.training.checkpoint:CheckpointFolder.save_weights", 1),
    "after the best weights are written": Point("zoo.training.checkpoint:CheckpointFolder.save_weights", 1, after=True),
    "in the midst of writing a file": Point("zoo.files:os.fsync", 31),
    "before a checkpoint takes its name": Point("zoo.files:sync", 22),
    "before old checkpoints go": Point("zoo.training.checkpoint:CheckpointFolder._prune", 5),
    "while old checkpoints go": Point("zoo.training.checkpoint:shutil.rmtree", 2),
    "before the frozen check": Point("zoo.training.guard:Guard.finish", 1),
    "after the first phase was finished": Point("zoo.training.loop:refuse_foreign", 1),
    "after the second phase was finished": Point("zoo.training.loop:refuse_foreign", 2),
    "while the second phase is prepared": Point("zoo.training.loop:prepare_phase", 2),
    "before the final evaluation": Point("zoo.concluding:evaluate_result", 1),
    "while the bundle is written": Point("zoo.bundle.write:write_json", 1, after=True),
}


def arm(point: Point) -> None:
    """From now on the signal comes at this moment."""
    module_name, _, path = point.function.partition(":")
    owner = importlib.import_module(module_name)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)

    def strike() -> None:
        for _ in range(point.times):
            if point.workers:
                for child in multiprocessing.active_children():
                    os.kill(child.pid, point.signal)
            elif point.group:
                os.killpg(0, point.signal)
            else:
                os.kill(os.getpid(), point.signal)

    setattr(owner, name, tiny_runs.at_call(getattr(owner, name), point.call, strike, point.after))


def registry(backbone: str) -> Registry:
    """The tiny plugins, or all that are installed."""
    return Registry() if "/" in backbone else tiny_zoo.registry()


def work(
    out: Path, resuming: bool, point: Point | None, workers: int, settings: tuple[str, ...], data: object,
    recipe: str = "plain", device: str = "cpu",
) -> None:  # fmt: skip
    """Run or resume here; ends the process where the run fails."""
    os.setpgrp()
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as in a process started by hand
    if point is not None:
        arm(point)
    strategy, backbone = RECIPES[recipe]
    asked = tiny_runs.request(data, strategy, backbone, f"train.workers={workers}", *settings)
    known = registry(backbone)
    try:
        if resuming:
            tiny_runs.resume(out, asked, known, train={"workers": workers}, device=device)
        else:
            tiny_runs.start(out, asked, known, device=device)
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            raise
        print(error, file=sys.stderr)
        os._exit(code)


def run(
    out: Path,
    *,
    resuming: bool = False,
    point: Point | None = None,
    workers: int = 0,
    settings: Sequence[str] = (),
    data: object = None,
    recipe: str = "plain",
    device: str = "cpu",
) -> int:
    """Run or resume in a process of its own; its exit code, negative for a signal."""
    process = begin(
        out, resuming=resuming, point=point, workers=workers, settings=settings, data=data, recipe=recipe, device=device
    )
    process.join(300)
    assert process.exitcode is not None, "the run does not end"
    return process.exitcode


def begin(
    out: Path,
    *,
    resuming: bool = False,
    point: Point | None = None,
    workers: int = 0,
    settings: Sequence[str] = (),
    data: object = None,
    recipe: str = "plain",
    device: str = "cpu",
) -> multiprocessing.process.BaseProcess:
    """As :func:`run`, but it does not wait for the end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny_runs", "torch._dynamo", "matplotlib.figure"])
    process = context.Process(target=work, args=(out, resuming, point, workers, tuple(settings), data, recipe, device))
    process.start()
    return process
