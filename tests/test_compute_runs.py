"""Whole runs on other compute paths: every strategy, killed and resumed; the recipe keeps what was chosen."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import strategy_table as table
import tiny_zoo
import torch
from safetensors import safe_open
from strategy_table import Case
from tiny_runs import Halt, HaltingReporter, make_run, outcome, phase, request, resume, same_bits, start, train_here
from zoo_registry import Strategy
from zoo_runs import zoo

from zoo import finetuning
from zoo.compute import choose
from zoo.compute.choose import Choice
from zoo.compute.path import ComputePath
from zoo.recipe import read_recipe
from zoo.training.checkpoint import clone_state

FAST = ("train.precision=bf16", "train.memory_format=channels_last", "train.fused=true")
EVERYDAY = {"basics/linear", "basics/full", "basics/delta", "basics/sam", "basics/ema", "peft/lora"}


def bits(out: Path) -> dict[str, object]:
    """What :func:`tiny_runs.outcome` compares, without the text of the checkpoint: its tensors are in it."""
    return {name: value for name, value in outcome(out).items() if name != "state.json"}


def cases() -> Iterator[object]:
    """Every strategy on the CNN, or the first architecture that has what it needs."""
    for entry in table.strategies():
        able = [a for a in table.ARCHITECTURES if not table.missing((entry.name,), a)]
        case = Case(entry.name, able[0], (entry.name,), FAST)
        yield pytest.param(case, id=str(case), marks=() if entry.name in EVERYDAY else pytest.mark.slow)


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch):
    """Nothing here depends on what a power failure leaves."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A bundle of the classes of the data."""
    return table.write_teacher(tmp_path_factory.mktemp("teacher") / "bundle")


@pytest.mark.parametrize("case", list(cases()))
@pytest.mark.slow
def test_every_strategy_in_bf16_channels_last(case, teacher, tmp_path):
    """It learns, what is frozen rests (the loop's own proof), weights are float32, and a resume gives the same bits."""
    whole = table.prepare(case, teacher)
    before = table.train_loss(whole.run)
    watcher = table.train_attempt(whole)
    assert table.train_loss(whole.run) < 0.9 * before
    state = clone_state(whole.run.model.state_dict())
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float32}
    late = 3 * len(watcher.steps) // 4
    if late:
        stopped = table.prepare(case, teacher)
        stopped.run.options = dataclasses.replace(stopped.run.options, checkpoint_every=1e-9)
        with pytest.raises(Halt):
            table.train_attempt(stopped, tmp_path, late)
    second = table.prepare(case, teacher)
    after = table.train_attempt(second, tmp_path)
    count = len(after.steps)
    assert after.steps == watcher.steps[len(watcher.steps) - count :]
    assert count < len(watcher.steps) or not late
    assert same_bits(clone_state(second.run.model.state_dict()), state)
    assert second.rows == whole.rows


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bf16"},
        {"memory_format": "channels_last"},
        {"fused": False},
        {"precision": "bf16", "fused": False},
    ],
    ids=str,
)
def test_each_option_ends_near_the_plain_run(options):
    """The same run on another path: other bits, but close by; bfloat16 has 8 bits of mantissa."""
    plain, other = (make_run([phase(Strategy(), rate=1e-3)], backbone="plain", **more) for more in ({}, options))
    one, two = train_here(plain), train_here(other)
    loss_one, loss_two = (next(r["train_loss"] for r in rows if r["event"] == "epoch") for rows in (one, two))
    short = "precision" in options
    assert loss_one == pytest.approx(loss_two, rel=2e-2 if short else 1e-4)
    assert not short or loss_one != loss_two
    for name, tensor in plain.model.state_dict().items():
        near = other.model.state_dict()[name]
        torch.testing.assert_close(near, tensor, rtol=0.05 if short else 1e-3, atol=1e-2 if short else 1e-4)


def test_frozen_hashes_do_not_depend_on_the_memory_format():
    records = []
    for memory_format in ("contiguous", "channels_last"):
        run = make_run([phase(tiny_zoo.Freeze(), epochs=1)], memory_format=memory_format)
        records.append(train_here(run)[-1])
    assert records[0]["frozen_sha256"] == records[1]["frozen_sha256"]
    assert records[0]["frozen_tensors"] > 4


@pytest.mark.slow
def test_killed_in_any_phase_and_resumed_through_the_whole_command(tmp_path):
    asked = request(None, "freeze:1,whole:2,whole:1", "norm", *FAST)
    start(tmp_path / "whole", asked)
    for halt in (2, 7, 9, 14):
        with pytest.raises(Halt):
            start(tmp_path / str(halt), asked, reporter=HaltingReporter(halt))
        resume(tmp_path / str(halt), asked)
        assert bits(tmp_path / str(halt)) == bits(tmp_path / "whole"), halt
    with safe_open(tmp_path / "whole" / "model" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} <= {torch.float32, torch.int64}


def chosen(monkeypatch, path: ComputePath) -> list[str]:
    """The chooser says this path; the list tells how often it was asked."""
    asked: list[str] = []

    def instead(run, build, rehearsed):
        asked.append("asked")
        return Choice(path, "of a test")

    monkeypatch.setattr(finetuning, "choose_path", instead)
    return asked


@pytest.mark.slow
def test_the_choice_is_stored_and_never_made_again(tmp_path, monkeypatch):
    path = ComputePath(precision="bf16", memory_format="channels_last", fused=True)
    asked = chosen(monkeypatch, path)
    wanted = request(None, "whole:2", "norm")
    start(tmp_path / "whole", wanted)
    with pytest.raises(Halt):
        start(tmp_path / "run", wanted, reporter=HaltingReporter(5))
    assert len(asked) == 2
    stored = tomllib.loads((tmp_path / "run" / "recipe.toml").read_text())["train"]
    assert {name: stored[name] for name in ("precision", "memory_format", "fused", "compile")} == {
        "precision": "bf16", "memory_format": "channels_last", "fused": True, "compile": False
    }  # fmt: skip

    monkeypatch.undo()
    monkeypatch.setattr(choose, "SHORT", 0.0)
    monkeypatch.setattr(choose, "pass_seconds", None)  # whoever measures now fails
    monkeypatch.setattr(choose, "Bench", None)
    result = resume(tmp_path / "run", wanted)
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")
    assert result.recipe.train.precision == "bf16"
    again = dataclasses.replace(wanted, recipe=read_recipe(tmp_path / "whole" / "recipe.toml"), settings=())
    start(tmp_path / "again", again)
    assert bits(tmp_path / "again") == bits(tmp_path / "whole")


def test_a_run_of_an_older_recipe_goes_on_as_it_began(tmp_path, monkeypatch):
    """Its recipe names no path: it had the default one."""
    wanted = request(None, "whole:2", "norm")
    start(tmp_path / "whole", wanted)
    with pytest.raises(Halt):
        start(tmp_path / "run", wanted, reporter=HaltingReporter(5))
    file = tmp_path / "run" / "recipe.toml"
    names = ("precision", "memory_format", "fused", "compile")
    kept = [line for line in file.read_text().splitlines() if line.partition(" ")[0] not in names]
    file.write_text("\n".join(kept))
    monkeypatch.setattr(choose, "SHORT", 0.0)
    resume(tmp_path / "run", wanted)
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_a_measured_run_through_the_whole_command(tmp_path, monkeypatch):
    """Whatever is measured here, the run is that of the recipe it left behind."""
    monkeypatch.setattr(choose, "SHORT", 0.0)
    monkeypatch.setattr(choose, "SHARE", 1e9)
    notes: list[str] = []

    class Noting(HaltingReporter):
        def note(self, text):
            notes.append(text)

    wanted = request(None, "freeze:1,whole:2", "norm", "train.compile=false")
    start(tmp_path / "run", wanted, reporter=Noting(None))
    (line,) = [note for note in notes if note.startswith("compute: ")]
    assert "measured on 8 samples" in line
    stored = read_recipe(tmp_path / "run" / "recipe.toml").train
    assert "auto" not in (stored.precision, stored.memory_format, stored.fused, stored.compile)
    monkeypatch.setattr(choose, "Bench", None)
    start(tmp_path / "again", dataclasses.replace(wanted, recipe=read_recipe(tmp_path / "run" / "recipe.toml")))
    assert bits(tmp_path / "again") == bits(tmp_path / "run")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.precision=tf32", "train.precision=tf32 does not work on cpu"),
        ("train.precision=half", "train.precision: 'half' is not one of auto, float32, tf32, bf16"),
        ("train.memory_format=nhwc", "train.memory_format: 'nhwc' is not one of auto, contiguous, channels_last"),
        ("train.fused=maybe", "train.fused: 'maybe' is not one of auto, True, False"),
        ("train.presicion=bf16", "unknown option 'train.presicion' (did you mean 'precision'?)"),
    ],
)
def test_wrong_values_are_one_line(setting, said, tmp_path):
    asked = ("finetune", "digits:", "--backbone", "starter/cnn", "--device", "cpu", "--out", tmp_path / "run")
    outcome = zoo(*asked, "--set", setting, "--json")
    assert outcome.code == 2
    assert outcome.json["error"]["message"].startswith(said)
    assert not (tmp_path / "run").exists()


def test_the_default_of_a_short_run_is_written_out(tmp_path):
    """In the recipe, and as one line on the screen."""
    asked = ("--set", "data.labels_per_class=2", "--strategy", "full:1", "--backbone", "starter/cnn", "--device", "cpu")
    outcome = zoo("finetune", "digits:", *asked, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("compute: float32, contiguous (a short run, not measured)") == 1
    stored = read_recipe(tmp_path / "run" / "recipe.toml").train
    assert (stored.precision, stored.memory_format, stored.fused, stored.compile) == (
        "float32", "contiguous", True, False
    )  # fmt: skip
    document = json.loads((tmp_path / "run" / "model" / "zoo.json").read_text())
    assert document["recipe"]["train"]["precision"] == "float32"


@pytest.mark.slow
def test_compiled_and_resumed(tmp_path):
    """Full batches run compiled, the last one does not; a resume compiles anew and gives the same bits."""
    pytest.importorskip("torch._inductor")
    asked = request(None, "whole:2", "norm", "train.compile=true", *FAST)
    start(tmp_path / "whole", asked)
    with pytest.raises(Halt):
        start(tmp_path / "run", asked, reporter=HaltingReporter(4))
    torch._dynamo.reset()
    resume(tmp_path / "run", asked)
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_on_a_gpu(precision, tmp_path):
    """Every precision of CUDA learns and resumes with the same bits."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    settings = (f"train.precision={precision}", "train.memory_format=channels_last", "train.fused=true")
    asked = request(None, "whole:2", "norm", *settings)
    registry = tiny_zoo.registry()
    finetuning.start(asked, registry, out=tmp_path / "whole", device="cuda")
    with pytest.raises(Halt):
        finetuning.start(asked, registry, out=tmp_path / "run", device="cuda", reporter=HaltingReporter(5))
    finetuning.resume(registry, out=tmp_path / "run", data=asked.data, device="cuda")
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")
