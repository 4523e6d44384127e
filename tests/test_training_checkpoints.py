"""Checkpoints: what is kept, what is written beside training, and what damage or a full disk leave of them."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import killing
import pytest
import tiny_runs
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from killing import Point
from safetensors.torch import load_file, save
from tiny_runs import Halt, HaltingReporter, make_run, outcome, phase, request, resume, start, train_here
from zoo_registry import RunStoppedError, Strategy

from zoo.files import write_tensors
from zoo.training.checkpoint import CheckpointFolder
from zoo.training.guard import tensor_hash
from zoo.training.lock import RunLock

SYNC = "zoo.files:os.fsync"


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def removed(file: Path) -> None:
    file.unlink()


def three(folder: Path) -> CheckpointFolder:
    made = CheckpointFolder(folder, keep=3)
    for step in (1, 2, 3):
        weights = {f"best-0-{step}": {"x": torch.full((40,), float(step))}}
        made.save(0, step, {"x": torch.full((40,), float(step))}, needs=(f"best-0-{step}",), weights=weights)
    return made


@pytest.mark.parametrize("file", ["step-0-00000003/tensors.safetensors", "step-0-00000003/state.json", "best-0-3"])
@pytest.mark.parametrize("damage", [flipped, truncated, emptied, removed])
def test_every_kind_of_damage_is_named_and_the_checkpoint_before_is_used(file, damage, tmp_path):
    three(tmp_path)
    damage(tmp_path / (file if "/" in file else f"{file}.safetensors"))
    found, said = CheckpointFolder(tmp_path).newest()
    assert found.step == 2
    assert torch.equal(found.state["x"], torch.full((40,), 2.0))
    assert len(said) == 1
    assert said[0].startswith("checkpoint step-0-00000003 is damaged (")
    assert said[0].endswith("going back to the one before it")


@given(place=some.floats(0, 1, exclude_max=True), bit=some.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_no_flipped_bit_goes_unseen(place, bit, tmp_path_factory):
    """Wherever it lies, in the tensors or in the state."""
    folder = tmp_path_factory.mktemp("flip")
    three(folder)
    files = sorted((folder / "step-0-00000003").iterdir())
    sizes = [file.stat().st_size for file in files]
    at = int(place * sum(sizes))
    file, at = (files[0], at) if at < sizes[0] else (files[1], at - sizes[0])
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << bit
    file.write_bytes(content)
    assert CheckpointFolder(folder).newest()[0].step == 2


@pytest.mark.slow
def test_a_run_says_that_it_goes_back(tmp_path):
    asked = request(None, "whole:3")
    with pytest.raises(Halt):
        start(tmp_path / "run", asked, reporter=HaltingReporter(7))
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    truncated(newest / "tensors.safetensors")
    said = []

    class Notes(tiny_runs.Reporter):
        def note(self, text):
            said.append(text)

    resume(tmp_path / "run", asked, reporter=Notes())
    assert sum(newest.name in line and "going back to the one before" in line for line in said) == 1
    start(tmp_path / "plain", asked)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "plain")


class Falling(Strategy):
    """The first epoch is the best: afterwards the weights are spoilt."""

    def after_step(self, model, run):
        if run.epoch > 0:
            with torch.no_grad():
                model.head.layers["label"].weight.zero_()
                model.head.layers["label"].bias.copy_(torch.tensor([0.0, 0.0, 9.0]))


def test_the_last_two_and_the_best_are_kept(tmp_path):
    run = make_run([phase(Falling(), epochs=4, rate=0.05)])
    best = []
    offer = run.evaluate

    def watched(*arguments):
        found = offer(*arguments)
        best.append({n: tensor_hash(t) for n, t in run.model.state_dict().items()})
        return found

    run.evaluate = watched
    rows = train_here(run, tmp_path)
    scores = [row["val"]["accuracy"] for row in rows if "val" in row]
    top = scores.index(max(scores))
    assert top < 3
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    steps = [name for name in names if name.startswith("step-")]
    assert len(steps) == 2
    assert [name for name in names if name not in steps] == [f"best-0-{top}.safetensors"]
    kept = load_file(tmp_path / "checkpoints" / f"best-0-{top}.safetensors")
    assert {n: tensor_hash(t) for n, t in kept.items()} == {n: best[top][n] for n in kept}
    assert {n: tensor_hash(t) for n, t in run.model.state_dict().items()} == best[top]


def test_no_more_than_the_interval_is_lost_in_training_nor_in_a_long_evaluation(tmp_path, monkeypatch):
    """By a clock of our own, that a step and a batch of an evaluation move by 40 s."""
    clock = [0.0]
    monkeypatch.setattr("zoo.training.keeping.time.monotonic", lambda: clock[0])
    saved: list[tuple[float, int, bool]] = []
    save_one = CheckpointFolder.save

    def noted(self, phase, step, state, *, open_epoch=False, **more):
        saved.append((clock[0], step, open_epoch))
        save_one(self, phase, step, state, open_epoch=open_epoch, **more)

    monkeypatch.setattr(CheckpointFolder, "save", noted)
    run = make_run([phase(Strategy(), epochs=3)], checkpoint_every=120.0)

    class Ticking(tiny_runs.Reporter):
        def step(self, *_):
            clock[0] += 40

    tick = type(run)._progressed

    def ticking(self, count):
        clock[0] += 40
        tick(self, count)

    monkeypatch.setattr(type(run), "_progressed", ticking)
    from zoo.training.log import MetricsLog
    from zoo.training.loop import train

    log, folder = MetricsLog(tmp_path / "metrics.jsonl"), CheckpointFolder(tmp_path / "checkpoints")
    train(run, log=log, checkpoints=folder, reporter=Ticking())
    moments = [0.0, *(moment for moment, _, _ in saved)]
    assert max(b - a for a, b in itertools.pairwise(moments)) <= 160
    assert any(open_epoch for _, _, open_epoch in saved)
    assert not all(open_epoch for _, _, open_epoch in saved)


def test_what_is_written_beside_training_is_what_it_was_when_it_was_asked_for(tmp_path, monkeypatch):
    """The tensors move on while the thread waits for the disk."""
    gate, write = threading.Event(), write_tensors

    def slow(*arguments):
        assert gate.wait(20)
        return write(*arguments)

    monkeypatch.setattr("zoo.training.checkpoint.write_tensors", slow)
    folder, moving, numbers = CheckpointFolder(tmp_path), torch.zeros(5), [1]
    folder.save(0, 1, {"x": moving, "numbers": numbers}, wait=False)
    moving += 1
    numbers.append(2)
    folder.check()
    assert folder._folders() == []
    gate.set()
    folder.save(0, 2, {"x": moving, "numbers": numbers}, wait=False)  # waits for the first
    assert CheckpointFolder(tmp_path)._folders()[0][0] == (0, 1, True)
    folder.join()
    first = CheckpointFolder(tmp_path)._read(tmp_path / "step-0-00000001", None)
    assert torch.equal(first.state["x"], torch.zeros(5))
    assert first.state["numbers"] == [1]
    assert torch.equal(CheckpointFolder(tmp_path).newest()[0].state["x"], torch.ones(5))


def test_a_write_that_fails_is_told_at_the_next_step_and_the_run_goes_on_later(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    asked = request(None, "whole:3")
    calls = tiny_runs.at_call(write_tensors, 6, full)
    monkeypatch.setattr("zoo.training.checkpoint.write_tensors", calls)
    with pytest.raises(RunStoppedError, match="No space left") as caught:
        start(tmp_path / "run", asked)
    assert caught.value.exit_code == 8
    assert caught.value.hint.startswith("make room; then go on with: zoo finetune --resume --out ")
    assert list((tmp_path / "run").rglob(".*")) == []
    found, damaged = CheckpointFolder(tmp_path / "run" / "checkpoints").newest()
    assert (found is not None, damaged) == (True, [])
    monkeypatch.undo()
    resume(tmp_path / "run", asked)
    start(tmp_path / "plain", asked)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "plain")


FULL = """
import sys; sys.path[:0] = {paths!r}
import errno, os, pathlib, tiny_runs
calls = 0
sync = os.fsync
def full(descriptor):
    global calls
    calls += 1
    if calls >= {number}:
        raise OSError(errno.{code}, os.strerror(errno.{code}))
    sync(descriptor)
os.fsync = full
from zoo_registry import ZooError
try:
    tiny_runs.start(pathlib.Path({out!r}), tiny_runs.request(None, "freeze:2,whole:2"))
except ZooError as error:
    print(error.message, error.hint, sep="|")
    sys.exit(error.exit_code)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(20, "ENOSPC"), (57, "EDQUOT"), (90, "ENOSPC"), (131, "EIO")])
def test_a_disk_that_takes_nothing_more_from_some_moment_on(number, code, tmp_path):
    """Wherever that falls, the run ends with 8 and goes on once there is room."""
    text = FULL.format(paths=[p for p in sys.path if p], number=number, code=code, out=str(tmp_path / "run"))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
    assert done.returncode == 8, done.stderr
    assert os.strerror(getattr(errno, code)) in done.stdout
    assert killing.run(tmp_path / "run", resuming=True) == 0
    assert killing.run(tmp_path / "plain") == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "plain")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.slow
def test_a_real_file_system_that_is_full(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        assert killing.run(place / "run") == 8
        subprocess.run(["mount", "-o", "remount,size=8m", str(place)], check=True)
        assert killing.run(place / "run", resuming=True) == 0
        assert killing.run(tmp_path / "plain") == 0
        assert outcome(place / "run") == outcome(tmp_path / "plain")
    finally:
        subprocess.run(["umount", str(place)], check=False)


@pytest.mark.slow
def test_a_lock_that_a_dead_process_left_is_taken_over_and_it_is_said(tmp_path):
    out, said = tmp_path / "run", []
    assert killing.run(out, point=Point(killing.TAKE, 6)) == -signal.SIGKILL
    assert (out / ".lock").exists()

    class Notes(tiny_runs.Reporter):
        def note(self, text):
            said.append(text)

    resume(out, request(), reporter=Notes())
    assert sum(line.startswith("the run's last process, ") and line.endswith("is gone") for line in said) == 1
    with RunLock(tmp_path) as lock:
        assert lock.taken_over == ""


types = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.float64, torch.int32]


@given(
    tensors=some.dictionaries(
        some.text(some.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8),
        some.tuples(some.lists(some.integers(0, 3), max_size=3), some.sampled_from(types)),
        max_size=5,
    )
)
@settings(max_examples=60, deadline=None)
def test_files_are_byte_for_byte_what_safetensors_writes(tensors, tmp_path_factory):
    made = {
        name: torch.arange(max(1, 27)).float()[: 3 ** len(s)].sum().expand(s).to(t) for name, (s, t) in tensors.items()
    }
    made = {name: tensor.contiguous() for name, tensor in made.items() if name != "__metadata__"}
    path = tmp_path_factory.mktemp("files") / "a.safetensors"
    digest = write_tensors(path, made, {"a": "b"})

    assert path.read_bytes() == save(made, {"a": "b"})
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.gpu
def test_killed_on_a_gpu(tmp_path):
    """Deterministic mode, averages and a second gradient; kill -9 in each phase, another number of workers."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    how = {"recipe": "averages", "device": "cuda"}
    assert killing.run(tmp_path / "plain", **how) == 0
    out = tmp_path / "run"
    for number, call in enumerate((6, 9, 2)):
        point = Point(killing.TAKE, call)
        assert killing.run(out, resuming=number > 0, point=point, workers=number, **how) == -signal.SIGKILL
    assert killing.run(out, resuming=True, workers=4, **how) == 0
    assert outcome(out) == outcome(tmp_path / "plain")


def test_the_copies_cost_no_order_of_writing(tmp_path):
    """A later checkpoint never takes its name before an earlier one."""
    folder = CheckpointFolder(tmp_path, keep=50)
    for step in range(30):
        folder.save(0, step, {"x": torch.full((10,), float(step))}, wait=False)
        assert [place[1] for place, _ in folder._folders()] in (list(range(step)), list(range(step + 1)))
    folder.join()
    assert len(folder._folders()) == 30
