"""Killed at any moment and resumed, a run ends with the same bits as one that was never killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import killing
import pytest
import tiny_zoo
from fake_plugins import add_distribution
from killing import MORE_POINTS, POINTS, TAKE, Point
from tiny_runs import Halt, make_run, outcome, phase, same_bits, train_here
from zoo_registry import Strategy

from zoo.training.checkpoint import CheckpointFolder
from zoo.training.log import MetricsLog

BATCH = "zoo.training.run:TrainingRun._progressed"
ACCUMULATE = ("train.batch_size=4", "train.accumulate=2")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the run of a recipe comes to when nothing happens to it."""

    @lru_cache
    def find(recipe: str = "plain") -> dict[str, object]:
        out = tmp_path_factory.mktemp("whole") / "run"
        assert killing.run(out, recipe=recipe) == 0
        return outcome(out)

    return find


@pytest.fixture
def whole(undisturbed):
    """What the plain run comes to."""
    return undisturbed()


def killed_and_resumed(out: Path, point: Point, *, first: int = 0, then: int = 0, **how) -> dict[str, object]:
    assert killing.run(out, point=point, workers=first, **how) == -signal.SIGKILL
    assert not (out / "model").exists()
    assert killing.run(out, resuming=True, workers=then, **how) == 0
    assert list(out.rglob(".*")) == []
    return outcome(out)


def test_two_runs_agree(whole, tmp_path):
    assert killing.run(tmp_path / "run") == 0
    assert outcome(tmp_path / "run") == whole


@pytest.mark.parametrize("moment", POINTS)
def test_killed(moment, whole, tmp_path):
    assert killed_and_resumed(tmp_path / "run", POINTS[moment]) == whole


@pytest.mark.parametrize(("first", "then"), [(2, 0), (0, 2)])
def test_killed_with_another_number_of_workers(first, then, whole, tmp_path):
    assert killed_and_resumed(tmp_path / "run", Point(TAKE, 11), first=first, then=then) == whole


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(4, 0), (0, 4), (4, 1), (1, 4)])
def test_killed_with_four_workers_and_others(first, then, whole, tmp_path):
    assert killed_and_resumed(tmp_path / "run", Point(TAKE, 11), first=first, then=then) == whole


@pytest.mark.parametrize(
    ("recipe", "calls"), [("averages", (6, 9, 2)), pytest.param("ranks", (6, 3), marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_killed_where_strategies_keep_state(recipe, calls, undisturbed, tmp_path):
    """In the middle of each phase: thawing, averages that move, a second gradient, ranks that fall."""
    out = tmp_path / "run"
    for number, call in enumerate(calls):
        assert killing.run(out, resuming=number > 0, point=Point(TAKE, call), recipe=recipe) == -signal.SIGKILL
    assert killing.run(out, resuming=True, recipe=recipe) == 0
    assert outcome(out) == undisturbed(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MORE_POINTS)
def test_killed_at_further_moments(moment, whole, tmp_path):
    assert killed_and_resumed(tmp_path / "run", MORE_POINTS[moment]) == whole


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["within accumulation", "after the weights moved", "before an evaluation"])
def test_killed_while_accumulating(moment, tmp_path):
    assert killing.run(tmp_path / "whole", settings=ACCUMULATE) == 0
    found = killed_and_resumed(tmp_path / "run", MORE_POINTS[moment], settings=ACCUMULATE)
    assert found == outcome(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("draw", range(20))
def test_killed_at_drawn_moments_again_and_again(draw, undisturbed, tmp_path):
    """Up to three deaths, each at a drawn step or write, with drawn numbers of workers; often no checkpoint is due."""
    chance = random.Random(draw)
    recipe = ("plain", "averages", "averages", "ranks")[draw % 4]
    settings = (f"train.checkpoint_every={chance.choice([0, 1e-9, 0.05])}",)
    out, resuming = tmp_path / "run", False
    for _ in range(chance.randint(1, 3)):
        function = chance.choice([TAKE, "zoo.files:sync", "zoo.training.log:MetricsLog.append", BATCH])
        point = Point(function, chance.randint(1, 12), after=chance.random() < 0.5)
        how = {"workers": chance.choice([0, 0, 1]), "settings": settings, "recipe": recipe}
        code = killing.run(out, resuming=resuming, point=point, **how)
        assert code in (0, -signal.SIGKILL)
        if code == 0:
            break
        resuming = (out / "recipe.toml").exists()
    else:
        how = {"workers": chance.choice([0, 1]), "settings": settings, "recipe": recipe}
        assert killing.run(out, resuming=resuming, **how) == 0
    assert outcome(out) == undisturbed(recipe)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path):
    notes = []
    run = make_run([phase(Strategy(), epochs=3)])
    rows = train_here(run)
    with pytest.raises(Halt):
        train_here(make_run([phase(Strategy(), epochs=3)]), tmp_path, halt=7)
    newest = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    file = newest / "tensors.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    notes += CheckpointFolder(tmp_path / "checkpoints").newest()[1]
    assert len(notes) == 1
    assert newest.name in notes[0]
    resumed = make_run([phase(Strategy(), epochs=3)])
    assert train_here(resumed, tmp_path) == rows
    assert same_bits(resumed.model.state_dict(), run.model.state_dict())


def test_a_missing_or_damaged_file_that_a_checkpoint_needs_counts_as_damage(tmp_path):
    folder = CheckpointFolder(tmp_path)
    tensor = next(iter(make_run([]).model.parameters()))
    folder.save_weights("best-0-0", {"x": tensor})
    folder.save(0, 1, {"a": 1}, needs=("best-0-0",))
    folder.save_weights("best-0-1", {"x": tensor + 1})
    folder.save(0, 2, {"a": 2}, needs=("best-0-1",))
    assert CheckpointFolder(tmp_path).newest()[0].state == {"a": 2}
    (tmp_path / "best-0-1.safetensors").write_bytes(b"other")
    assert CheckpointFolder(tmp_path).newest()[0].state == {"a": 1}
    (tmp_path / "best-0-0.safetensors").unlink()
    found, damaged = CheckpointFolder(tmp_path).newest()
    assert found is None
    assert len(damaged) == 2


def test_half_a_row_of_a_killed_log_is_cut_off(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"epoch": 0, "loss": float("nan")})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 1, "lo')
    again = MetricsLog(tmp_path / "metrics.jsonl")
    again.truncate(1)
    again.append({"epoch": 1})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"epoch": 0, "loss": None}, {"epoch": 1}]


@pytest.fixture
def shell(tmp_path):
    """Runs ``zoo`` in a process of its own, with the tiny plugin installed; a signal may strike it."""
    site = tmp_path / "site"
    site.mkdir()
    add_distribution(site, "tiny", tiny_zoo.SOURCE)
    support = str(Path(tiny_zoo.__file__).parent)
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(site), support]), "ZOO_PLUGINS": "tiny,basics",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip

    def run(*arguments: str, point: Point | None = None) -> subprocess.CompletedProcess[str]:
        code = f"import killing; p = {tuple(point) if point else None}; p and killing.arm(killing.Point(*p))\n"
        code += f"from zoo.cli.main import run; run({list(arguments)!r})"
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300,
            start_new_session=True,
        )  # fmt: skip

    return run


@pytest.mark.slow
def test_signals_stop_the_command_and_it_goes_on(shell, tmp_path):
    """SIGTERM to the whole process group, data workers too, as a job scheduler sends it; then SIGINT; then the end."""
    data, out, plain = tiny_zoo.write_images(tmp_path / "data"), tmp_path / "run", tmp_path / "plain"
    settings = ("train.batch_size=8", "train.checkpoint_every=0", "train.threads=1")
    stopped = shell(
        "finetune", str(data), "--backbone", "tiny/norm", "--head", "tiny/head", "--no-pretrained", "--device", "cpu",
        "--strategy", "freeze:2,whole:2", "--augment", "light", "--workers", "1", "--out", str(out),
        *(x for setting in settings for x in ("--set", setting)),
        point=Point(TAKE, 3, signal=int(signal.SIGTERM), group=True),
    )  # fmt: skip
    assert stopped.returncode == 143, stopped.stderr
    assert "stopped by SIGTERM" in stopped.stderr
    assert f"zoo finetune --resume --out {out}" in stopped.stderr
    interrupt = Point(TAKE, 8, signal=int(signal.SIGINT))
    assert killing.run(out, resuming=True, point=interrupt, settings=settings, data=data) == 130
    assert [p.name for p in (out / "checkpoints").glob("step-1-*")] == ["step-1-00000003"]
    last = shell("finetune", "--resume", "--out", str(out), "--workers", "2")
    assert last.returncode == 0, last.stderr
    assert killing.run(plain, settings=settings, data=data) == 0
    assert outcome(out) == outcome(plain)
    assert not (out / ".lock").exists()
