"""Trackers: what they are told, that they never harm a run, and what is in TensorBoard's files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_zoo
from tiny_runs import Halt, HaltingReporter, outcome, request, resume, start
from zoo_registry import PluginError, Registry, RunStoppedError, Tracker, TrackerSpec, UsageError
from zoo_registry.conformance import parametrize_with_checks
from zoo_registry.discovery import Plugin
from zoo_runs import zoo

from zoo.recipe import Component
from zoo.tracking import Fan, Tracking, choose_trackers, read_trackers, write_trackers
from zoo.training.log import MetricsLog
from zoo.training.progress import Reporter

TOLD: list[tuple] = []
CALLS: list[str] = []
"""Methods that were called of a tracker that is to fail."""


class Told(Tracker):
    """Keeps what it is told; raises in the method that the option names."""

    def __init__(self, fails: str) -> None:
        self.fails = fails

    def _tell(self, *what):
        print("noise of a tracker")
        CALLS.extend(what[:1] if self.fails else ())
        TOLD.append(what)
        if what[0] == self.fails:
            raise RuntimeError("the service is gone")

    def begin(self, run):
        self._tell("begin", run)

    def log(self, step, metrics):
        self._tell("log", step, dict(metrics))

    def figure(self, name, path):
        self._tell("figure", name, Path(path).read_bytes()[:4])

    def end(self, status):
        self._tell("end", status)


def build(spec, options):
    if spec.extra.get("absent"):
        raise PluginError("the library is not installed", hint="pip install it")
    return Told(spec.extra.get("fails", ""))


def specs() -> list[TrackerSpec]:
    made = [("good", {}), ("absent", {"absent": True})]
    made += [(f"bad-{method}", {"fails": method}) for method in ("begin", "log", "figure", "end")]
    return [
        TrackerSpec(name=name, summary="a tracker of a test", factory=f"{__name__}:build", extra=extra)
        for name, extra in made
    ]


@pytest.fixture
def registry(monkeypatch) -> Registry:
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or SimpleNamespace(build=build))
    monkeypatch.setattr(sys.modules[__name__], "build", build, raising=False)
    TOLD.clear()
    CALLS.clear()
    plugin = Plugin(namespace="told", distribution="zoo-told", version="1")
    plugin.specs["tracker"] = list(specs())
    return Registry([*tiny_zoo.registry().plugins, plugin])


class Notes(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def told(kind: str) -> list[tuple]:
    return [what[1:] for what in TOLD if what[0] == kind]


def test_a_run_is_told_from_begin_to_end(registry, tmp_path, capsys):
    asked = request(None, "freeze:2,whole:1", "norm", "train.log_every=2", trackers=("good",))
    result = start(tmp_path / "run", asked, registry)
    [(run,)] = told("begin")
    assert (run.folder, run.step, run.resumed) == (tmp_path / "run", 0, False)
    assert run.recipe["phase"][0]["epochs"] == 2
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    epochs = [row for row in rows if row["event"] == "epoch"]
    length = epochs[1]["step"]
    logged = told("log")
    assert [step for step, _ in logged] == sorted(step for step, _ in logged)
    assert [(step, m["train/loss"]) for step, m in logged if "train/loss" in m] == [
        (row["step"] + length * row["phase"], row["train_loss"]) for row in epochs
    ]
    steps = [row["step"] + length * row["phase"] for row in rows if row["event"] == "step"]
    assert [step for step, m in logged if "step/loss" in m] == steps
    assert all(step % 2 == 0 for step in steps[: length // 2])
    last = [metrics for _, metrics in logged if "train/loss" in metrics][-1]
    assert last["val/accuracy"] == epochs[-1]["val"]["accuracy"]
    assert last["train/rate"] == epochs[-1]["learning_rates"][0]
    assert last["machine/samples_per_second"] > 0
    assert logged[-1][1]["final/accuracy"] == result.metrics["accuracy"]
    assert [name for name, head in told("figure") if head == b"\x89PNG"] == ["curves", "confusion"]
    assert told("end") == [("finished",)]
    assert capsys.readouterr().out == ""  # what a tracker prints is none of the command's output


@pytest.mark.parametrize("method", ["begin", "log", "figure", "end"])
def test_a_tracker_that_raises_is_switched_off_and_the_run_ends_with_the_same_bits(method, registry, tmp_path):
    start(tmp_path / "plain", request(None, "freeze:1,whole:1"), registry)
    notes = Notes()
    asked = request(None, "freeze:1,whole:1", trackers=(f"bad-{method}", "good"))
    start(tmp_path / "run", asked, registry, reporter=notes)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "plain")
    [line] = [note for note in notes.notes if "tracker" in note]
    assert "told/bad-" in line
    assert f"{method}() failed: RuntimeError: the service is gone" in line
    assert CALLS[-1] == method, "it is not called again"
    assert CALLS.count(method) == 1
    assert told("end")[-1] == ("finished",)


def test_trackers_that_cannot_be_had_are_refused_before_anything_is_written(registry, tmp_path):
    with pytest.raises(UsageError, match="unknown tracker 'goood'") as caught:
        start(tmp_path / "run", request(trackers=("goood",)), registry)
    assert "did you mean 'good'" in str(caught.value.hint)
    with pytest.raises(PluginError, match="not installed"):
        start(tmp_path / "run", request(trackers=("absent",)), registry)
    asked = request(None, "whole:1", "norm", "tracker.good.folder=x", "tracker.other.x=1", trackers=("good",))
    with pytest.raises(UsageError, match=r"unknown option 'tracker\.told/good\.folder'") as caught:
        start(tmp_path / "run", asked, registry)
    assert "no tracker 'other' is chosen" in caught.value.message
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_stopped_run_says_so_and_its_resume_tells_nothing_twice(registry, tmp_path):
    asked = request(None, "freeze:2,whole:2", "norm", "train.log_every=1", trackers=("good",))
    with pytest.raises(Halt):
        start(tmp_path / "run", asked, registry, reporter=HaltingReporter(after=9))
    assert told("end") == [("failed",)]
    assert read_trackers(tmp_path / "run" / "trackers.json") == (Component(name="told/good"),)
    before = [(step, name) for step, metrics in told("log") for name in metrics]
    TOLD.clear()
    resume(tmp_path / "run", asked, registry)
    [(run,)] = told("begin")
    assert run.resumed
    assert run.step > 1
    after = [(step, name) for step, metrics in told("log") for name in metrics]
    kept = [(step, name) for step, name in before if step < run.step]
    assert min(step for step, _ in after) == run.step
    TOLD.clear()
    start(tmp_path / "whole", asked, registry)
    assert kept + after == [(step, name) for step, metrics in told("log") for name in metrics]


def test_a_resume_goes_on_without_a_tracker_that_is_gone(registry, tmp_path):
    asked = request(None, "whole:2", trackers=("good",))
    with pytest.raises(Halt):
        start(tmp_path / "run", asked, registry, reporter=HaltingReporter(after=2))
    write_trackers(tmp_path / "run" / "trackers.json", [Component(name="gone/away"), Component(name="told/absent")])
    notes = Notes()
    resume(tmp_path / "run", asked, registry, reporter=notes)
    lines = [note for note in notes.notes if "left out" in note]
    assert len(lines) == 2
    assert "unknown tracker 'gone/away'" in lines[0]
    assert (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    ("error", "status"), [(RunStoppedError("x"), "stopped"), (KeyboardInterrupt(), "stopped"), (OSError(), "failed")]
)
def test_the_end_is_told_as_it_was(error, status, registry, tmp_path):
    tracking = Tracking(
        [("told/good", Told(""))], folder=tmp_path, recipe={}, log=MetricsLog(), resumed=False, note=print
    )
    tracking.begin_phase(0, 1, "x", 3)
    with pytest.raises(type(error)), tracking.followed():
        raise error
    assert told("end") == [(status,)]


def test_a_fan_hands_everything_on():
    methods = [name for name in vars(Reporter) if not name.startswith("_")]
    assert set(methods) <= set(vars(Fan)), "a new call of Reporter must reach trackers and screen alike"


def test_one_name_twice_is_one_tracker(registry):
    errors: list = []
    found = choose_trackers(("good", "told/good"), {}, registry, errors)
    assert (found, errors) == ((Component(name="told/good"),), [])


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value), as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    scalars = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    scalars["images"] = [(image, 0) for image in sorted(found.Tags()["images"])]
    return scalars


@parametrize_with_checks("tensorboard")
def test_the_tensorboard_tracker_conforms(check):
    check()


class Nosy(Tracker):
    """Writes over a file of the run, cannot go on after a kill, and fails at an early end."""

    def begin(self, run):
        if run.resumed:
            raise OSError("only once")
        self.logged = False
        (run.folder / "metrics.jsonl").write_text("mine")

    def log(self, step, metrics):
        self.logged = True

    def end(self, status):
        assert self.logged or status == "finished"


@pytest.mark.parametrize(
    ("check", "factory"),
    [
        ("builds_a_tracker", "no_tracker"),
        ("goes_on_after_a_kill", "nosy"),
        ("ends_however_the_run_ends", "nosy"),
        ("leaves_the_run_alone", "nosy"),
    ],
)
def test_the_checks_find_what_is_wrong(check, factory, monkeypatch):
    from zoo_registry.conformance import tracker_checks
    from zoo_registry.registry import Entry

    made = SimpleNamespace(nosy=lambda spec, options: Nosy(), no_tracker=lambda spec, options: object())
    monkeypatch.setitem(sys.modules, "nosy_trackers", made)
    spec = TrackerSpec(name="nosy", summary="a tracker of a test", factory=f"nosy_trackers:{factory}")
    entry = Entry("tracker", "own", spec, Plugin(namespace="own", distribution="zoo-own", version="1"))
    with pytest.raises((AssertionError, OSError)):
        getattr(tracker_checks, check)(entry)


@pytest.fixture
def with_tensorboard() -> Registry:
    here = tiny_zoo.registry().plugins
    return Registry([*here, *(p for p in Registry().plugins if p.namespace == "tensorboard")])


def test_tensorboard_reads_back_what_the_log_says(with_tensorboard, tmp_path):
    out = tmp_path / "run"
    asked = request(None, "freeze:1,whole:2", "norm", "train.log_every=3", trackers=("tensorboard",))
    start(out, asked, with_tensorboard)
    found = events(out / "tensorboard")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    epochs = [row for row in rows if row["event"] == "epoch"]
    first = epochs[0]["step"]
    assert found["train/loss"] == [
        (row["step"] + first * row["phase"], pytest.approx(row["train_loss"])) for row in epochs
    ]
    assert [value for _, value in found["val/accuracy"]] == pytest.approx([row["val"]["accuracy"] for row in epochs])
    assert len(found["step/loss"]) == sum(row["event"] == "step" for row in rows)
    assert found["images"] == [("confusion", 0), ("curves", 0)]


def test_tensorboard_has_no_step_twice_after_a_kill(with_tensorboard, tmp_path):
    """Killed in the middle of an epoch with steps after the last checkpoint; then the rest, in a later life."""
    asked = request(None, "whole:3", "norm", "train.log_every=1", "train.checkpoint_every=0", trackers=("tb",))
    start(tmp_path / "whole", asked, with_tensorboard)
    with pytest.raises(Halt):
        start(tmp_path / "run", asked, with_tensorboard, reporter=HaltingReporter(after=4))
    again = request(None, "whole:3", "norm", "train.log_every=1", trackers=("tb",))
    resume(tmp_path / "run", again, with_tensorboard)
    found, expected = events(tmp_path / "run" / "tensorboard"), events(tmp_path / "whole" / "tensorboard")
    assert {k: v for k, v in found.items() if "machine" not in k} == {
        k: v for k, v in expected.items() if "machine" not in k
    }
    assert [step for step, _ in found["step/loss"]] == list(range(1, 1 + len(found["step/loss"])))
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 2


def test_a_missing_tensorboard_is_said_with_the_line_that_installs_it(with_tensorboard, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(PluginError) as caught:
        start(tmp_path / "run", request(trackers=("tensorboard",)), with_tensorboard)
    assert caught.value.hint == "pip install tensorboard"
    assert not (tmp_path / "run").exists()


def test_runs_can_be_collected_in_one_folder(with_tensorboard, tmp_path):
    place = f"tracker.tensorboard.folder={tmp_path / 'all'}"
    start(tmp_path / "run-a", request(None, "whole:1", "norm", place, trackers=("tb",)), with_tensorboard)
    assert "train/loss" in events(tmp_path / "all" / "run-a")
    assert not (tmp_path / "run-a" / "tensorboard").exists()


def test_the_command_lists_shows_and_refuses_trackers(tmp_path):
    assert [row["name"] for row in zoo("list", "trackers", "--json").json] == ["tensorboard/tensorboard"]
    shown = zoo("show", "tracker", "tb", "--json").json
    assert [option["name"] for option in shown["options"]] == ["folder", "recipe"]
    refused = zoo("finetune", "digits:", "--track", "tensorbord", "--out", tmp_path / "run", "--json")
    assert (refused.code, refused.json["error"]["kind"]) == (2, "unknown-name")
    assert "tensorboard" in refused.json["error"]["hint"]
