"""What a run says of its cost and its course: machine.jsonl, logged steps, the hint, lines and bar."""

from __future__ import annotations

import io
import json
import math
import time

import pytest
import torch
from rich.console import Console
from tiny_runs import Halt, HaltingReporter, make_run, outcome, phase, request, resume, start
from zoo_registry import Strategy

from zoo.cli import progress as progress_module
from zoo.cli.progress import BarReporter, LineReporter
from zoo.determinism import reproducible
from zoo.training import watch as watch_module
from zoo.training.log import MetricsLog
from zoo.training.loop import train
from zoo.training.progress import Reporter
from zoo.training.watch import INPUT_BOUND, Watch, input_hint, peak_rss


def rows_of(path, event="epoch"):
    return [row for line in path.read_text().splitlines() if (row := json.loads(line))["event"] == event]


class Clock:
    """Stands still but where told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(watch_module.time, "perf_counter", made)
    return made


def test_waiting_is_what_the_loop_waited_and_nothing_else(clock):
    def feed():
        for _ in range(3):
            clock.now += 2.0  # the input takes two seconds
            yield "batch"
        clock.now += 1.0  # to find that there is no more

    watch = Watch(torch.device("cpu"))
    for _ in watch.feed(feed()):
        clock.now += 3.0  # the step three
        watch.count(4)
    row = watch.row()
    assert (row["seconds"], row["steps"], row["samples"]) == (16.0, 3, 12)
    assert row["wait_share"] == pytest.approx(6 / 16)
    assert row["samples_per_second"] == 12 / 16
    watch.begin()
    assert watch.row()["steps"] == 0


def test_a_watched_feed_is_closed_with_its_loop():
    closed = []

    def feed():
        try:
            yield from range(9)
        finally:
            closed.append(True)

    batches = Watch(torch.device("cpu")).feed(feed())
    assert next(batches) == 0
    batches.close()
    del batches
    assert closed == [True]


def test_peak_memory_is_in_bytes():
    block = torch.ones(64_000_000 // 4)
    peak = peak_rss()
    assert peak is not None
    assert 64_000_000 < peak < 1e12
    assert float(block[0]) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_says_its_peak():
    watch = Watch(torch.device("cuda"))
    torch.ones(1_000_000, device="cuda")
    assert watch.row()["cuda_peak_bytes"] >= 4_000_000


WAITING = {"wait_share": 0.62, "seconds": 60.0, "samples_per_second": 40.0}


def test_the_hint_names_the_share_and_what_may_help():
    line = input_hint(WAITING, workers=0, cores=4)
    assert "62%" in line
    assert "40 samples/s" in line
    assert "--workers 4, now 0" in line
    assert "--image-size" in line
    assert "\n" not in line
    assert "--workers" not in input_hint(WAITING, workers=4, cores=4)
    assert "--workers" not in input_hint(WAITING, workers="auto", cores=4)
    assert "--image-size" not in input_hint(WAITING, workers=0, cores=4, images=False)


@pytest.mark.parametrize(
    ("row", "more"), [({"wait_share": INPUT_BOUND}, {}), ({"seconds": 1.0}, {}), ({}, {"cached": True})]
)
def test_a_run_that_does_not_wait_long_gets_no_hint(row, more):
    assert input_hint({**WAITING, **row}, workers=0, cores=4, **more) is None


class Slow(Strategy):
    """An augmentation that takes its time."""

    touches = frozenset({"input"})
    role = "augment"

    def augment(self, transform, stream, view):
        def slow(*arguments):
            time.sleep(0.005)
            return transform(*arguments)

        return slow


class Notes(Reporter):
    def __init__(self) -> None:
        self.notes, self.rows = [], []

    def note(self, text):
        self.notes.append(text)

    def epoch(self, row):
        self.rows.append(row)


def test_a_run_that_waits_for_its_input_is_told_once(monkeypatch):
    monkeypatch.setattr(watch_module, "LONG_ENOUGH", 0.0)
    told = Notes()
    run = make_run([phase(Strategy(), Slow(), epochs=3)], workers=0)
    with reproducible(threads=1):
        train(run, log=MetricsLog(), checkpoints=None, reporter=told)
    assert sum("waits for its input" in note for note in told.notes) == 1
    assert all(row["machine"]["wait_share"] > 0.5 for row in told.rows)


def test_every_epoch_has_a_row_of_its_cost_and_a_resume_adds_to_them(tmp_path):
    asked = request(None, "freeze:2,whole:2", "norm", "train.workers=0")
    with pytest.raises(Halt):
        start(tmp_path / "run", asked, reporter=HaltingReporter(after=8))
    before = rows_of(tmp_path / "run" / "machine.jsonl")
    resume(tmp_path / "run", asked)
    rows = rows_of(tmp_path / "run" / "machine.jsonl")
    assert rows[: len(before)] == before
    assert {(row["phase"], row["epoch"]) for row in rows} == {(p, e) for p in (0, 1) for e in (0, 1)}
    assert all(row["samples_per_second"] > 0 and 0 <= row["wait_share"] <= 1 for row in rows)
    start(tmp_path / "whole", asked)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")  # metrics.jsonl knows nothing of the machine


def test_rates_and_gradient_norms_are_those_of_the_steps(tmp_path):
    start(tmp_path / "run", request(None, "freeze:1,whole:2", "norm", "train.log_every=1", "train.warmup=0"))
    steps, epochs = (rows_of(tmp_path / "run" / "metrics.jsonl", event) for event in ("step", "epoch"))
    for row in epochs:
        mine = [s for s in steps if (s["phase"], s["epoch"]) == (row["phase"], row["epoch"])]
        assert row["gradient_norm"] == pytest.approx(sum(s["gradient_norm"] for s in mine) / len(mine))
        assert row["gradient_norm_max"] == max(s["gradient_norm"] for s in mine)
        assert row["learning_rates"] == mine[-1]["learning_rates"]
        weighted = sum(s["loss"] * s["samples"] for s in mine) / sum(s["samples"] for s in mine)
        assert row["train_loss"] == pytest.approx(weighted)
    whole = [s["learning_rates"][0] / epochs[1]["rate"] for s in steps if s["phase"] == 1]
    falls = [0.5 + 0.5 * math.cos(math.pi * step / len(whole)) for step in range(len(whole))]
    assert whole == pytest.approx(falls)  # no warm-up: a cosine from 1 to nearly 0


def test_logged_steps_are_the_same_after_a_kill(tmp_path):
    asked = request(None, "freeze:1,whole:2", "norm", "train.log_every=2", "train.workers=0")
    with pytest.raises(Halt):
        start(tmp_path / "run", asked, reporter=HaltingReporter(after=5))
    resume(tmp_path / "run", asked)
    start(tmp_path / "whole", asked)
    one, two = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "whole"))
    assert one == two
    assert b'"event": "step"' in one


ROW = {
    "event": "epoch", "phase": 0, "epoch": 1, "step": 20, "train_loss": 0.5, "val": {"accuracy": 0.75},
    "learning_rates": [0.001, 0.0001], "machine": {"samples_per_second": 1234.5},
}  # fmt: skip


def test_plain_lines_say_epoch_loss_metric_rate_and_speed(capsys):
    reporter = LineReporter()
    reporter.begin_phase(0, 2, "linear:3", 30)
    reporter.doing("evaluating")
    reporter.epoch(ROW)
    assert capsys.readouterr().out.splitlines() == [
        "phase 1 of 2: linear:3 (30 steps)",
        "  epoch 2/3, loss 0.5000, accuracy 0.7500, rate 0.001, 1,234 samples/s",
    ]


def bar(monkeypatch, width: int = 110) -> tuple[BarReporter, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None, legacy_windows=False)
    monkeypatch.setattr("rich.console.Console", lambda **_: console)
    return BarReporter(), out


def test_the_bar_shows_where_the_phase_is_and_what_goes_on(monkeypatch):
    monkeypatch.setattr(progress_module, "SHOWN_EVERY", 0.0)
    reporter, out = bar(monkeypatch)
    with reporter:
        reporter.begin_phase(0, 1, "full[x]:3", 30)
        for step in range(1, 11):
            reporter.step(step, 0, 2.0, 8)
        detail = reporter.progress.tasks[0].fields["detail"]
        reporter.doing("evaluating")
        reporter.epoch(ROW)
        reporter.progress.refresh()
    assert detail.startswith("loss 2.000")
    assert "samples/s" in detail
    text = out.getvalue()
    assert "full[x]:3" in text
    assert "10/30 evaluating" in text
    assert "epoch 2/3, loss 0.5000" in text


def test_a_bar_of_a_thousand_steps_is_drawn_a_few_times(monkeypatch):
    reporter, _ = bar(monkeypatch)
    drawn = []
    with reporter:
        reporter.begin_phase(0, 1, "full:1", 1000)
        monkeypatch.setattr(reporter.progress, "update", lambda *a, **k: drawn.append(k))
        monkeypatch.setattr(progress_module.time, "monotonic", lambda: 50.0)
        for step in range(1, 1001):
            reporter.step(step, 0, 1.0, 8)
    assert len(drawn) == 1


def test_lines_fit_a_terminal_of_eighty_columns(monkeypatch):
    monkeypatch.setattr(progress_module, "SHOWN_EVERY", 0.0)
    reporter, out = bar(monkeypatch, width=80)
    with reporter:
        reporter.begin_phase(0, 1, "linear:3", 3000)
        reporter.metric = "accuracy 0.9926"
        for step in range(1, 4):
            reporter.step(step, 0, 2.0, 8)
        reporter.progress.refresh()
    assert max(len(line) for line in out.getvalue().replace("\r", "\n").splitlines() if "loss" in line) <= 80 + 10
