"""What stops a run from outside: numbers that are not finite, full disks, other processes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading

import killing
import pytest
import tiny_runs
import torch
from killing import TAKE, Point
from tiny_runs import Halt, make_run, phase, request, resume, same_bits, start, train_here
from zoo_registry import ConflictError, RunStoppedError, Strategy, StrategySpec, UsageError

from zoo.files import write_bytes, write_folder, write_json
from zoo.training.checkpoint import CheckpointFolder
from zoo.training.lock import RunLock
from zoo.training.signals import InterruptedRunError, StopSignal


class Poison(Strategy):
    """Spoils one step."""

    role = "penalty"

    def __init__(self, step: int, how: str) -> None:
        self.step, self.how = step, how

    def penalty(self, model, batches, run):
        if run.step != self.step or self.how != "loss":
            return {}
        return {"poison": next(model.parameters()).sum() * float("nan")}

    def before_step(self, model, run):
        if run.step == self.step and self.how == "gradient":
            next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = float("inf")


def test_broken_weights_are_never_checkpointed(tmp_path):
    class Break(Strategy):
        def after_step(self, model, run):
            if run.step == 2:
                with torch.no_grad():
                    model.head.layers["label"].bias[1] = float("inf")

    with pytest.raises(RunStoppedError, match=r"weights are not finite .*'head.layers.label.bias'"):
        train_here(make_run([phase(Break())]), tmp_path)
    assert CheckpointFolder(tmp_path / "checkpoints").newest()[0].step == 2


@pytest.mark.parametrize(("how", "words"), [("loss", "poison nan"), ("gradient", "gradient norm inf")])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_what_is_not_finite_stops_the_run_before_a_weight_moves(how, words, clip, tmp_path):
    clean = make_run([phase(Poison(99, how), epochs=3)], clip=clip)
    rows = train_here(clean)
    spoilt = make_run([phase(Poison(6, how), epochs=3)], clip=clip)
    with pytest.raises(RunStoppedError, match="is not finite at phase 1, step 7") as caught:
        train_here(spoilt, tmp_path)
    assert caught.value.exit_code == 8
    assert words in caught.value.message
    assert "learning rate 0.00" in caught.value.message
    found, damaged = CheckpointFolder(tmp_path / "checkpoints").newest()
    assert (found.step, damaged) == (6, [])
    assert all(bool(v.isfinite().all()) for v in found.state["model"].values() if v.is_floating_point())
    assert all(bool(v.isfinite().all()) for v in spoilt.model.state_dict().values())
    again = make_run([phase(Poison(99, how), epochs=3)], clip=clip)
    assert train_here(again, tmp_path) == rows
    assert same_bits(again.model.state_dict(), clean.model.state_dict())


def test_the_command_line_gets_exit_code_8(tmp_path):
    spec = StrategySpec(name="spoil", summary="of a test", factory=f"{__name__}:build_poison", role="penalty")
    registry = tiny_runs.tiny_zoo.registry(spec)
    with pytest.raises(RunStoppedError) as caught:
        start(tmp_path / "run", request(None, "whole+spoil:2"), registry)
    assert caught.value.exit_code == 8
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / ".lock").exists()


def build_poison(spec, options):
    """Factory."""
    return Poison(3, "loss")


def full_disk(out, limit: int, settings) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    killing.work(out, False, None, 0, settings, None)


def test_a_full_disk_leaves_the_last_checkpoint_good(tmp_path):
    """No file may grow beyond what the head's checkpoint needs, so that of the second phase does not fit."""
    out, plain = tmp_path / "run", tmp_path / "plain"
    assert killing.run(plain) == 0
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=full_disk, args=(out, 9000, ()))
    process.start()
    process.join(120)
    assert process.exitcode == 8
    found, damaged = CheckpointFolder(out / "checkpoints").newest()
    assert damaged == []
    assert found.phase == 0
    assert killing.run(out, resuming=True) == 0
    assert tiny_runs.outcome(out) == tiny_runs.outcome(plain)


def test_a_failing_write_leaves_what_was_there(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"old": 1})

    def fill(folder):
        (folder / "x").write_text("new")
        raise OSError(28, "No space left on device")

    write_folder(tmp_path / "folder", lambda folder: (folder / "x").write_text("old"))
    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "folder", fill)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_bytes(tmp_path / "a.json", b"{}")
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert (tmp_path / "folder" / "x").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "folder"]


def test_a_second_process_is_refused_with_pid_and_host(tmp_path):
    """The first one is a process of its own that has begun, and waits."""
    code = (
        "import sys, pathlib; from zoo.training.lock import RunLock\n"
        "with RunLock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.readline()"
    )
    out = tmp_path / "run"
    assert killing.run(out, point=Point(TAKE, 6)) == -signal.SIGKILL
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    with pytest.raises(ConflictError, match=f"in use by process {holder.pid} on {socket.gethostname()}") as caught:
        resume(out, request())
    assert caught.value.exit_code == 6
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    holder.kill()
    holder.communicate()
    assert (out / ".lock").exists()
    resume(out, request())
    assert (out / "model" / "manifest.json").exists()
    assert not (out / ".lock").exists()


def test_a_lock_of_another_host_is_not_taken_over(tmp_path):
    (tmp_path / ".lock").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(ConflictError, match="process 1 on elsewhere") as caught, RunLock(tmp_path):
        pass
    assert str(tmp_path / ".lock") in caught.value.hint
    assert (tmp_path / ".lock").exists()


def test_a_lock_file_without_sense_is_taken_over(tmp_path):
    (tmp_path / ".lock").write_text("{")
    with RunLock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text()) == {"pid": os.getpid(), "host": socket.gethostname()}
    assert not (tmp_path / ".lock").exists()


def test_the_same_process_is_refused_too(tmp_path):
    with RunLock(tmp_path), pytest.raises(ConflictError, match=f"process {os.getpid()}"), RunLock(tmp_path):
        pass
    with RunLock(tmp_path):
        pass


def test_without_file_locks_a_dead_process_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.training.lock.fcntl", None)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / ".lock").write_text(json.dumps({"pid": dead.pid, "host": socket.gethostname()}))
    with RunLock(tmp_path):
        pass
    (tmp_path / ".lock").write_text(json.dumps({"pid": os.getppid(), "host": socket.gethostname()}))
    with pytest.raises(ConflictError, match=f"process {os.getppid()}"), RunLock(tmp_path):
        pass


def test_a_new_run_in_a_folder_that_another_just_took_is_refused(tmp_path, monkeypatch):
    """Both found it free; the lock and a second look decide."""
    start(tmp_path / "run", request(None, "freeze:1"))
    monkeypatch.setattr("zoo.runs.RunFolder.refuse_existing", lambda _: None)
    from zoo import finetuning

    looks = iter([None, ConflictError("a finished run")])

    def look(_):
        found = next(looks)
        if found is not None:
            raise found

    monkeypatch.setattr("zoo.runs.RunFolder.refuse_existing", look)
    recipe = (tmp_path / "run" / "recipe.toml").read_bytes()
    with pytest.raises(ConflictError):
        finetuning.start(request(None, "whole:1"), tiny_runs.tiny_zoo.registry(), out=tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "recipe.toml").read_bytes() == recipe


def test_a_resume_with_other_data_is_refused(tmp_path):
    out = tmp_path / "run"
    assert killing.run(out, point=Point(TAKE, 6)) == -signal.SIGKILL
    with pytest.raises(UsageError, match="the data is not what the run"):
        resume(out, request(tiny_runs.tiny_zoo.drawn_splits(25)))
    resume(out, request())
    with pytest.raises(ConflictError, match="finished"):
        resume(out, request())


def strike(number, *, deferred=False, waiting=False, times=1, reached=None):
    """Signals that come to a run in training (``deferred``), or elsewhere; the error that it ends with."""

    def signalled():
        with StopSignal("go on") as stop, stop.deferred() if deferred else contextlib.nullcontext():
            stop.waiting = waiting
            for _ in range(times):
                try:
                    os.kill(os.getpid(), number)
                except Exception:  # as a reader of samples that takes everything for a bad one
                    reached.append("swallowed")
                reached.append(stop.requested)

    with pytest.raises(InterruptedRunError) as caught:
        signalled()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    return caught.value


def test_a_signal_outside_of_steps_stops_at_once():
    reached = []
    assert strike(signal.SIGTERM, reached=reached).exit_code == 143
    assert strike(signal.SIGINT, reached=reached).exit_code == 130
    assert strike(signal.SIGINT, deferred=True, waiting=True, reached=reached).hint == "go on"
    assert reached == []


def test_a_signal_within_a_step_waits_for_its_end():
    reached = []
    assert strike(signal.SIGINT, deferred=True, reached=reached).exit_code == 130
    assert strike(signal.SIGTERM, deferred=True, times=3, reached=reached).exit_code == 143  # schedulers send several
    assert reached == [True] * 4


def test_a_second_ctrl_c_does_not_wait():
    reached = []
    assert strike(signal.SIGINT, deferred=True, times=2, reached=reached).exit_code == 130
    assert reached == [True]


def test_training_works_outside_of_the_main_thread(tmp_path):
    failures = []

    def work():
        try:
            start(tmp_path / "run", request(None, "freeze:1"))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
    assert (tmp_path / "run" / "model" / "manifest.json").exists()


def test_the_number_of_threads_is_part_of_the_recipe(tmp_path):
    """The last bits depend on it, so a resume and a rerun must use the same."""
    import tomllib

    asked = request(None, "freeze:1")
    asked = type(asked)(**{**asked.__dict__, "settings": ("train.batch_size=8",)})
    start(tmp_path / "run", asked)
    recipe = tomllib.loads((tmp_path / "run" / "recipe.toml").read_text())
    assert recipe["train"]["threads"] == torch.get_num_threads()


def test_torch_is_left_as_it_was_found(tmp_path):
    from zoo.determinism import reproducible

    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    mode, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    with reproducible(threads=threads + 1) as count:
        assert count == threads + 1
        assert torch.get_deterministic_debug_mode() == 1
        torch.rand(7)
    assert torch.equal(torch.rand(2), expected)
    assert (torch.get_deterministic_debug_mode(), torch.get_num_threads()) == (mode, threads)


def test_a_crash_leaves_a_run_that_can_be_resumed(tmp_path):
    class Bursts(tiny_runs.Reporter):
        def step(self, step, epoch, loss, samples):
            if step == 3:
                raise Halt

    with pytest.raises(Halt):
        start(tmp_path / "run", request(), reporter=Bursts())
    resume(tmp_path / "run", request())
    start(tmp_path / "plain", request())
    assert tiny_runs.outcome(tmp_path / "run") == tiny_runs.outcome(tmp_path / "plain")
