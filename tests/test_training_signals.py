"""Signals and lost workers in real processes: where a run waits, reads, evaluates, extracts, measures or writes."""

from __future__ import annotations

import os
import signal
import time
from functools import lru_cache

import killing
import pytest
from killing import TAKE, Point
from tiny_runs import outcome
from tiny_zoo import Drawn, Stuck, drawn_splits

from zoo.training.checkpoint import CheckpointFolder

PROMPT = 30
"""Seconds within which a run must have ended after SIGTERM."""

EVALUATED = "zoo.training.run:TrainingRun._progressed"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What undisturbed runs come to."""

    @lru_cache
    def find(recipe: str = "plain") -> dict[str, object]:
        out = tmp_path_factory.mktemp("whole") / "run"
        assert killing.run(out, recipe=recipe, settings=SETTINGS[recipe]) == 0
        return outcome(out)

    return find


SETTINGS = {"plain": (), "rest": ("train.augment=none",)}
RARELY = ("train.checkpoint_every=0",)


def end_stuck(out, data, number=signal.SIGTERM, group=False, **how) -> tuple[int, float]:
    """Exit code, and seconds from the signal, of a run that hangs in reading an image."""
    marker = out.parent / "marker"
    process = killing.begin(out, data=data, **how)
    until = time.monotonic() + 100
    while not marker.exists():
        assert time.monotonic() < until
        assert process.is_alive()
        time.sleep(0.05)
    time.sleep(0.3)
    begun = time.monotonic()
    (os.killpg if group else os.kill)(process.pid, number)
    process.join(100)
    return process.exitcode, time.monotonic() - begun


def stuck_splits(tmp_path, split: str, index: int) -> dict[str, Drawn]:
    sizes = {"train": (26, 0), "val": (15, 1)}
    count, seed = sizes[split]
    return drawn_splits() | {split: Stuck(index, str(tmp_path / "marker"), count=count, seed=seed)}


def goes_on(out, whole, recipe="plain", workers=0):
    assert killing.run(out, resuming=True, recipe=recipe, workers=workers, settings=SETTINGS[recipe]) == 0
    assert outcome(out) == whole(recipe)
    assert list(out.rglob(".*")) == []


@pytest.mark.parametrize(
    ("workers", "number", "group"),
    [
        (0, signal.SIGTERM, False),
        pytest.param(1, signal.SIGTERM, True, marks=pytest.mark.slow),
        pytest.param(0, signal.SIGINT, False, marks=pytest.mark.slow),
    ],
)
def test_a_signal_while_a_sample_does_not_come(workers, number, group, whole, tmp_path):
    """The steps so far are on disk, though no checkpoint was due by time."""
    out = tmp_path / "run"
    data = stuck_splits(tmp_path, "train", 25)  # drawn last in the first epoch
    code, seconds = end_stuck(out, data, number, group, workers=workers, settings=RARELY)
    assert (code, seconds < PROMPT) == (128 + number, True)
    found, damaged = CheckpointFolder(out / "checkpoints").newest()
    assert (found.phase, damaged) == (0, [])
    assert found.step == 3
    goes_on(out, whole)


@pytest.mark.parametrize(("workers", "group"), [(0, False), pytest.param(1, True, marks=pytest.mark.slow)])
def test_a_signal_in_a_long_evaluation(workers, group, whole, tmp_path):
    """The state from before the evaluation is on disk, and the evaluation comes first in the resumed run."""
    out = tmp_path / "run"
    data = stuck_splits(tmp_path, "val", 12)
    code, seconds = end_stuck(out, data, group=group, workers=workers, settings=RARELY)
    assert (code, seconds < PROMPT) == (143, True)
    found, _ = CheckpointFolder(out / "checkpoints").newest()
    assert (found.step, found.state["open_epoch"]) == (4, True)
    assert (out / "metrics.jsonl").read_text() == ""
    goes_on(out, whole)


@pytest.mark.slow
def test_a_signal_while_features_are_computed(whole, tmp_path):
    """Nothing was trained yet, so nothing is lost; a sample is not taken for a bad one because a signal came."""
    out = tmp_path / "run"
    data = stuck_splits(tmp_path, "train", 20)
    code, seconds = end_stuck(out, data, recipe="rest", settings=(*SETTINGS["rest"], *RARELY))
    assert (code, seconds < PROMPT) == (143, True)
    assert not (out / "bad_samples.csv").exists()
    goes_on(out, whole, "rest")


def test_a_signal_before_anything_is_written_leaves_nothing(tmp_path):
    """While the compute path is being measured."""
    out = tmp_path / "run"
    assert killing.run(out, point=Point("zoo.finetuning:choose_path", signal=signal.SIGTERM)) == 143
    assert not out.exists()


MOMENTS = {
    "in a step": Point(TAKE, 6, signal=signal.SIGTERM),
    "several in a step": Point(TAKE, 6, signal=signal.SIGTERM, times=3),
    "between micro-batches": Point("zoo.training.step:Stepper._losses", 7, signal=signal.SIGTERM),
    "while a checkpoint is copied": Point("zoo.training.checkpoint:host_copy", 30, signal=signal.SIGTERM),
    "while a checkpoint is written": Point("zoo.training.checkpoint:_Writing", 3, after=True, signal=signal.SIGTERM),
    "while a checkpoint takes its name": Point("zoo.files:sync", 22, signal=signal.SIGTERM),
    "in an evaluation": Point(EVALUATED, 3, signal=signal.SIGTERM),
    "in the last phase's end": Point("zoo.training.loop:PhaseLoop._finish", 2, signal=signal.SIGTERM),
    "in the final evaluation": Point("zoo.concluding:report_columns", 1, signal=signal.SIGTERM),
    "while the bundle is written": Point("zoo.bundle.write:write_json", 1, signal=signal.SIGTERM),
}
EVERYDAY = ("while a checkpoint is written",)


@pytest.mark.parametrize("moment", [m if m in EVERYDAY else pytest.param(m, marks=pytest.mark.slow) for m in MOMENTS])
def test_sigterm_ends_a_run_with_143_and_it_goes_on(moment, whole, tmp_path):
    assert killing.run(tmp_path / "run", point=MOMENTS[moment]) == 143
    goes_on(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_run_at_once_and_the_checkpoint_before_holds(whole, tmp_path):
    out = tmp_path / "run"
    assert killing.run(out, point=Point("zoo.training.step:Stepper._update", 6, signal=signal.SIGINT, times=2)) == 130
    assert CheckpointFolder(out / "checkpoints").newest()[0].step < 6
    goes_on(out, whole)


@pytest.mark.parametrize(
    ("function", "call", "step"),
    [(TAKE, 3, 3), pytest.param("zoo.training.step:Stepper._update", 7, 7, marks=pytest.mark.slow)],
)
@pytest.mark.slow
def test_a_killed_worker_ends_the_run_with_8_after_the_step(function, call, step, whole, tmp_path):
    """As the kernel does when memory is short; the death comes in the middle of a step, and nothing trained is lost."""
    out = tmp_path / "run"
    point = Point(function, call, workers=True)
    code = killing.run(out, point=point, workers=2, settings=RARELY)
    if code == 0:  # on a slow machine the worker may have had nothing left to load
        assert outcome(out) == whole("plain")
        return
    assert code == 8
    found, _ = CheckpointFolder(out / "checkpoints").newest()
    assert found.step >= step
    goes_on(out, whole)


@pytest.mark.slow
def test_a_worker_killed_in_an_evaluation(whole, tmp_path):
    out = tmp_path / "run"
    assert killing.run(out, point=Point(EVALUATED, 1, workers=True), workers=1, settings=RARELY) in (0, 8)
    if not (out / "model").exists():
        goes_on(out, whole)
