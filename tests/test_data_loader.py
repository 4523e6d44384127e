"""The loader: same bits for any number of workers, bad samples dropped and named, resumable by its plan."""

from __future__ import annotations

import csv
import os
import pickle
import signal

import numpy as np
import pytest
import torch
from data_images import folder, photo
from zoo_registry.errors import DataError, RunStoppedError, UsageError
from zoo_registry.inputs import ImageInput

from zoo.data import BadSamples, open_data, write_bad_samples
from zoo.data.bad import BadRow
from zoo.data.dataset import Split
from zoo.data.loader import ViewLoader, in_order
from zoo.data.transforms import image_views
from zoo.keys import generator

FACTS = ImageInput(size=(24, 24))


@pytest.fixture
def split(tmp_path):
    root = folder(tmp_path, {"a": 9, "b": 12})
    (root / "a" / "3.png").write_bytes(b"")
    (root / "b" / "5.png").write_bytes(b"<html>")
    return open_data(root, split="all", check_leaks=False).splits["all"]


def shuffled(split, epoch, size=4):
    order = torch.randperm(len(split), generator=generator(epoch)).tolist()
    return [[(i, s + k) for k, i in enumerate(order[s : s + size])] for s in range(0, len(order), size)]


def load(split, workers, epochs=(0, 1), **options):
    views = {n: v for n, v in image_views(FACTS, "strong").items() if n != "weak"}
    with ViewLoader(split, views, seed=5, workers=workers, **options) as loader:
        return [batch for e in epochs for batch in loader.batches(shuffled(split, e), e)]


def same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two):
        assert (a.ids, a.draws, a.bad) == (b.ids, b.draws, b.bad)
        assert a.views.keys() == b.views.keys()
        assert all(torch.equal(a.views[n], b.views[n]) for n in a.views)


def test_same_bits_with_zero_and_two_workers(split):
    alone = load(split, 0)
    same(alone, load(split, 2))
    layout = torch.channels_last
    assert all(v.dtype == torch.uint8 for b in alone for v in b.views.values())
    assert all(v.is_contiguous(memory_format=layout) for b in alone for v in b.views.values())
    same(alone, load(split, 0))


def test_epochs_draws_streams_and_seeds_differ(split):
    index = 0
    views = image_views(FACTS, "strong")

    def one(draw=0, epoch=0, **options):
        return next(
            iter(ViewLoader(split, {"train": views["train"]}, **options).batches([[(index, draw)]], epoch))
        ).views["train"]

    assert torch.equal(one(), one())
    variants = [one(), one(draw=1), one(epoch=1), one(epoch=(0, 1)), one(seed=1), one(stream="unlabelled")]
    assert len({v.numpy().tobytes() for v in variants}) == len(variants)


def test_bad_samples_are_dropped_and_named(split):
    batches = load(split, 0, epochs=(0,))
    bad = [row for b in batches for row in b.bad]
    assert sorted(r.id for r in bad) == ["a/3.png", "b/5.png"]
    assert {r.id: r.reason for r in bad}["a/3.png"] == "empty file"
    assert sorted(i for b in batches for i in b.ids) == [
        i for i in range(21) if split.ids[i] not in ("a/3.png", "b/5.png")
    ]
    assert all(len(v) == len(b) for b in batches for v in b.views.values())


def test_a_batch_may_be_empty(split):
    index = list(split.ids).index("a/3.png")
    (batch,) = ViewLoader(split, image_views(FACTS)).batches([[(index, 0)]])
    assert (len(batch), batch.views) == (0, {})
    assert len(batch.bad) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_the_middle_of_an_epoch(split, workers):
    whole = load(split, 0, epochs=(2,))
    views = {n: v for n, v in image_views(FACTS, "strong").items() if n != "weak"}
    with ViewLoader(split, views, seed=5, workers=workers) as loader:
        interrupted = loader.batches(shuffled(split, 2), 2)
        next(interrupted)
        rest = list(loader.batches(shuffled(split, 2)[3:], 2))
    same(whole[3:], rest)


@pytest.mark.parametrize("workers", [0, 2])
def test_torchs_global_generator_is_left_alone(split, workers):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    load(split, workers)
    assert torch.equal(before, torch.random.get_rng_state())


def test_workers_stay_between_epochs_and_go_at_the_end(split):
    with ViewLoader(split, image_views(FACTS), workers=2) as loader:
        list(loader.batches(in_order(len(split), 4), 0))
        pids = [w.pid for w in loader._loader._iterator._workers]
        list(loader.batches(in_order(len(split), 4), 1))
        assert [w.pid for w in loader._loader._iterator._workers] == pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_killed_worker_stops_the_run_with_a_hint(split):
    with ViewLoader(split, image_views(FACTS), workers=1) as loader:
        batches = loader.batches(list(in_order(len(split), 1)) * 30, 0)
        next(batches)
        os.kill(loader._loader._iterator._workers[0].pid, signal.SIGKILL)
        with pytest.raises(RunStoppedError, match="worker died") as caught:
            list(batches)
    assert "--workers" in caught.value.hint


def test_what_a_worker_needs_survives_pickling(split):
    """Not every system forks."""
    loader = ViewLoader(split, image_views(FACTS, "strong"), seed=5)
    split.read(0)
    maker = pickle.loads(pickle.dumps(loader._loader.dataset))
    same([maker[(0, [(0, 7), (1, 8)])]], list(loader.batches([[(0, 7), (1, 8)]])))


def test_in_order_reads_everything_once(split):
    plan = in_order(len(split), 8)
    assert [len(b) for b in plan] == [8, 8, 5]
    assert [i for b in plan for i, _ in b] == list(range(21))


def test_another_modality_brings_decoder_transform_and_collate():
    text = Split(name="train", ids=["x", "y"], sources=["ab", "c"], sizes=[2, 1], decoder=lambda s: [ord(c) for c in s])

    def collate(samples):
        return {"tokens": torch.tensor([s + [0] * (3 - len(s)) for s in samples])}

    (batch,) = ViewLoader(text, {"train": lambda s, g: [*s, 1]}, collate=collate).batches(in_order(2, 2))
    assert batch.views["train"]["tokens"].tolist() == [[97, 98, 1], [99, 1, 0]]


def test_small_data_is_decoded_once_and_the_memory_is_bounded():
    calls = []

    def decoder(source):
        calls.append(source)
        return photo(10, 10, source)

    split = Split(name="train", ids=list("abc"), sources=[0, 1, 2], sizes=[0] * 3, decoder=decoder, cache_bytes=650)
    for _ in range(3):
        assert [np.array_equal(split.read(i), photo(10, 10, i)) for i in range(3)] == [True] * 3
    split.read(0)[:] = 7
    assert split.read(0).std() > 7  # what a caller does to its pixels stays with the caller
    assert calls == [0, 1, 2, 2, 2]  # two of 300 bytes fit


def test_the_limit_of_bad_samples():
    rows = [BadRow("train", f"{i}.png", "empty file") for i in range(5)]
    ledger = BadSamples(total=300, max_bad=0.01)
    assert ledger.allowed == 3
    assert ledger.add(rows[:2]) == rows[:2]
    assert ledger.add([rows[0], rows[2], rows[2]]) == [rows[2]]
    with pytest.raises(
        DataError, match=r"4 of 300 samples cannot be read, 3 are allowed; the first is '0\.png': empty file"
    ):
        ledger.add([rows[3]])
    assert BadSamples(total=10, max_bad=4).allowed == 4
    assert BadSamples(total=10, max_bad=0.01).allowed == 0
    everything = BadSamples(total=10, max_bad=None)
    everything.add(rows)
    assert len(everything) == 5
    for wrong in (-1, 1.5):
        with pytest.raises(UsageError, match="max_bad"):
            BadSamples(total=10, max_bad=wrong)


def test_bad_samples_csv(tmp_path):
    rows = [BadRow("val", "b, \u00e9.png", 'says "no"'), BadRow("train", "a.png", "empty file")]
    path = write_bad_samples(tmp_path / "bad_samples.csv", rows)
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["split", "id", "reason"], list(rows[1]), list(rows[0])]
    assert os.listdir(tmp_path) == ["bad_samples.csv"]
