"""A resume under changed circumstances: other options, other data; and data that changes while a run reads it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import time
from pathlib import Path

import killing
import pytest
import tiny_zoo
from hypothesis import given, settings
from hypothesis import strategies as some
from killing import TAKE, Point
from tiny_runs import Halt, HaltingReporter, outcome, request, resume, start
from zoo_registry import DataError, UsageError

from zoo import finetuning
from zoo.data import open_data
from zoo.data.changes import describe_changes, list_samples, read_listing, write_listing
from zoo.planning import Request
from zoo.recipe import read_recipe
from zoo.resuming import FREE, changes
from zoo.training.progress import Reporter


class Notes(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run on image files that was killed in its first epoch; nothing is written to it by a resume that is refused."""
    folder = tmp_path_factory.mktemp("stopped")
    data = tiny_zoo.write_images(folder / "data")
    assert killing.run(folder / "run", point=Point(TAKE, 3), data=data) == -signal.SIGKILL
    return folder


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"settings": ("train.clip=0.5",)}, "train.clip: 1.0 -> 0.5"),
        ({"train": {"lr": "0.25"}}, r"phase.1.rate: 0.\d+ -> 0.25; phase.2.rate: .* -> 0.25; train.lr: none -> 0.25"),
        ({"settings": ("strategy.2.rate=0.5",)}, "phase.2.rate: .* -> 0.5"),
        ({"strategy": "freeze:2"}, "strategy: freeze:2,whole:2 -> freeze:2"),
        ({"backbone": "tiny/plain"}, "backbone.name: tiny/norm -> tiny/plain"),
        ({"seed": 4}, "seed: 0 -> 4"),
        ({"train": {"batch_size": "4", "workers": "1"}}, "train.batch_size: 8 -> 4$"),
    ],
)
def test_options_that_change_the_result_are_refused_with_old_and_new(said, words, stopped):
    before = {p: p.read_bytes() for p in (stopped / "run").rglob("*") if p.is_file()}
    with pytest.raises(UsageError, match=words) as caught:
        finetuning.resume(tiny_zoo.registry(), out=stopped / "run", asked=Request(**said), device="cpu")
    assert "train.workers" not in caught.value.message
    assert "would change its result" in caught.value.message
    assert before == {p: p.read_bytes() for p in (stopped / "run").rglob("*") if p.is_file()}


def test_options_that_do_not_are_taken_and_said(tmp_path):
    asked = request(None, "freeze:2,whole:1")
    with pytest.raises(Halt):
        start(tmp_path / "run", asked, reporter=HaltingReporter(5))
    notes = Notes()
    free = ("train.checkpoint_every=7", "data.max_bad=3")
    resume(tmp_path / "run", asked, settings=free, train={"workers": 1}, reporter=notes)
    said = [line for line in notes.lines if line.startswith("from now on")]
    assert len(said) == 3
    assert any("train.checkpoint_every: 1e-09 -> 7.0; the result stays the same" in line for line in said)
    start(tmp_path / "plain", asked)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "plain")


def test_what_is_the_same_is_no_change(stopped):
    recipe = read_recipe(stopped / "run" / "recipe.toml")
    assert changes(recipe, recipe) == []
    train = dataclasses.replace(recipe.train, lr=0.5)  # a default that every phase has settled already
    assert changes(recipe, dataclasses.replace(recipe, train=train)) == []
    assert {name.partition(".")[0] for name in FREE} == {"train", "data"}


def removed(data: Path) -> None:
    (data / "train" / "class0" / "000.png").unlink()


def added(data: Path) -> None:
    file = data / "train" / "class0" / "000.png"
    (data / "train" / "class1" / "new.png").write_bytes(file.read_bytes())


def grown(data: Path) -> None:
    with (data / "val" / "class1" / "001.png").open("ab") as file:
        file.write(b"more")


def moved(data: Path) -> None:
    (data / "train" / "class0" / "000.png").rename(data / "val" / "class0" / "other.png")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (removed, r"1 gone \('train/class0/000.png'\)"),
        (added, r"1 new \('train/class1/new.png'\)"),
        (grown, r"1 of another size \('val/class1/001.png'\)"),
        (moved, r"1 gone \('train/class0/000.png'\), 1 new \('val/class0/other.png'\)"),
    ],
)
def test_a_resume_names_what_changed_in_the_data(change, words, stopped, tmp_path):
    shutil.copytree(stopped / "data", tmp_path / "data")
    shutil.copytree(stopped / "run", tmp_path / "run", ignore=shutil.ignore_patterns(".lock"))
    change(tmp_path / "data")
    with pytest.raises(UsageError, match=words) as caught:
        resume(tmp_path / "run", request(tmp_path / "data"))
    assert "bring the data back" in caught.value.hint


def test_files_written_since_the_start_are_named_though_their_size_is_the_same(stopped, tmp_path):
    shutil.copytree(stopped / "data", tmp_path / "data")
    shutil.copytree(stopped / "run", tmp_path / "run", ignore=shutil.ignore_patterns(".lock"))
    late = tmp_path / "data" / "train" / "class0" / "000.png"
    os.utime(late, (time.time() + 60, time.time() + 60))
    notes = Notes()
    resume(tmp_path / "run", request(tmp_path / "data"), reporter=notes)
    assert sum("1 files of the data were written after the run started, the first is" in s for s in notes.lines) == 1
    assert any("train/class0/000.png" in line for line in notes.lines)


class Meddler(Notes):
    """Changes the data after so many steps."""

    def __init__(self, change, steps: int = 2) -> None:
        super().__init__()
        self.change, self.left = change, steps

    def step(self, step, epoch, loss, samples):
        self.left -= 1
        if not self.left:
            self.change()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("change", "reason"), [(removed, "No such file"), (grown, "changed under the run: ")])
def test_a_file_that_goes_or_changes_while_a_run_reads_it_is_left_out_and_named(workers, change, reason, tmp_path):
    """Nothing is kept decoded here, as it is not where the data is larger than the memory."""
    data = tiny_zoo.write_images(tmp_path / "data")
    off = ("train.cache=off", f"train.workers={workers}", "data.max_bad=2")
    meddler = Meddler(lambda: change(data))
    start(tmp_path / "run", request(data, "whole:3", "norm", *off), reporter=meddler)
    listed = (tmp_path / "run" / "bad_samples.csv").read_text()
    assert reason in listed
    assert any("1 samples could not be read and were left out, the first is" in line for line in meddler.lines)


def test_more_than_are_allowed_stop_the_run(tmp_path):
    data = tiny_zoo.write_images(tmp_path / "data")
    meddler = Meddler(lambda: removed(data))
    with pytest.raises(DataError, match=r"'train/class0/000.png': No such file"):
        start(tmp_path / "run", request(data, "whole:3", "norm", "train.cache=off"), reporter=meddler)


names = some.text(some.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
rows = some.tuples(some.sampled_from(["train", "val"]), some.integers(0, 9), some.sampled_from(["a", "b"]))


@given(before=some.dictionaries(names, rows, max_size=5), now=some.dictionaries(names, rows, max_size=5))
@settings(max_examples=60, deadline=None)
def test_a_difference_is_said_where_there_is_one_and_only_there(before, now):
    assert bool(describe_changes(before, now)) == (before != now)


def test_the_listing_comes_back_as_it_was(tmp_path):
    data = open_data(tiny_zoo.write_images(tmp_path / "data"))
    odd = tmp_path / "data" / "train" / "class0" / "a\tb\nc%0A.png"
    odd.write_bytes((tmp_path / "data" / "train" / "class0" / "000.png").read_bytes())
    data = open_data(tmp_path / "data")
    write_listing(tmp_path / "list.gz", data)
    assert dict(read_listing(tmp_path / "list.gz")) == list_samples(data)
    assert len(list_samples(data)) == sum(len(split) for split in data.splits.values())
