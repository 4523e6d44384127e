"""Decoded images kept in shared memory and on the disk: the same bits as decoding, within bounds, whatever happens."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from data_images import folder, photo, save
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from zoo_registry.inputs import ImageInput

from zoo.data import decoded, open_data, stored
from zoo.data.dataset import Split
from zoo.data.decoded import Kept
from zoo.data.geometry import SPARE, shrink
from zoo.data.loader import ViewLoader, in_order
from zoo.data.making import SampleMaker
from zoo.data.stored import StoredPixels, file_identity, folder_bytes
from zoo.data.transforms import ROOM, CropView, EvalView, image_views
from zoo.training.pipeline import Pipeline

FACTS = ImageInput(size=(24, 24))
EDGE = 36


@pytest.fixture
def root(tmp_path):
    for number in range(8):
        save(tmp_path / "data" / "ab"[number % 2] / f"{number}.jpg", photo(90 + number, 300, number))
    save(tmp_path / "data" / "b" / "wide.png", photo(80, 200, 9))
    (tmp_path / "data" / "a" / "bad.jpg").write_bytes(b"")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def _old_files(monkeypatch):
    """Files that were changed a moment ago are not stored; the change time cannot be set, so the rule is."""
    monkeypatch.setattr(stored, "YOUNG", -1.0)


def opened(root) -> Split:
    return open_data(root, split="all", check_leaks=False).splits["all"]


def disk(tmp_path, limit=10**9, data="data") -> StoredPixels:
    pixels = StoredPixels(data, limit, root=tmp_path / "kept")
    assert pixels.open(0)
    return pixels


def batches(split, *, workers=0, stream="train", view="train", epochs=2, short_edge: int | None = EDGE):
    views = {view: image_views(FACTS, "strong")[view]}
    plan = in_order(len(split), 4)
    with ViewLoader(split, views, seed=3, stream=stream, workers=workers, short_edge=short_edge) as loader:
        found = [batch for epoch in range(epochs) for batch in loader.batches(plan, epoch)]
    return [(b.ids, [r.id for r in b.bad], b.views[view].numpy().tobytes()) for b in found]


@pytest.mark.parametrize(
    ("where", "workers"),
    [("memory", 0), ("little memory", 0), ("disk", 0), ("full disk", 0), ("memory", 2), ("disk", 1)],
)
@pytest.mark.slow
def test_the_same_bits_whatever_is_kept(root, tmp_path, where, workers):
    bare, kept = opened(root), opened(root)
    bare.keep_at(0)
    limit = {"memory": 10**8, "little memory": 50_000, "full disk": 60_000}.get(where, 10**8)
    kept.keep_at(0, disk(tmp_path, limit)) if "disk" in where else kept.keep_at(limit)
    for stream, view, edge in (("train", "train", EDGE), ("train", "train", None), ("eval", "eval", None)):
        expected = batches(bare, stream=stream, view=view, short_edge=edge)
        assert any("bad.jpg" in name for _, bad, _ in expected for name in bad)
        for _ in range(2):
            assert batches(kept, stream=stream, view=view, short_edge=edge, workers=workers) == expected


def test_workers_share_what_each_of_them_decoded(root, monkeypatch):
    split = opened(root)
    split.keep_at(10**8)
    batches(split, workers=2, epochs=1)
    decodes = []
    monkeypatch.setattr("zoo.data.dataset.decode_image", lambda *a, **k: decodes.append(a))
    assert sum(split.kept.get("edge36", i) is not None for i in range(len(split))) == 9
    assert split.kept.get("exact", 0) is None


def test_no_image_is_decoded_twice_in_one_process(root, monkeypatch):
    split = opened(root)
    reads = []
    source = Split.source
    monkeypatch.setattr(Split, "source", lambda self, index: reads.append(index) or source(self, index))
    first = batches(split, epochs=3)
    assert sorted(set(reads)) == list(range(10))
    assert len(reads) == 9 + 3  # the one that cannot be read is tried in each epoch
    assert first == batches(split, epochs=3)
    assert len(reads) == 9 + 6


def test_evaluation_keeps_finished_views_and_training_decoded_images(root):
    split = opened(root)
    batches(split, stream="eval", view="eval", short_edge=None)
    kinds = split.kept._tables
    assert list(kinds) == [repr(EvalView(FACTS))]
    assert split.kept.mean_bytes == 24 * 24 * 3
    batches(split, epochs=1)
    assert set(kinds) == {repr(EvalView(FACTS)), "edge36"}


def test_a_pass_over_train_under_the_evaluation_view_keeps_nothing(root):
    train = open_data(root, check_leaks=False).splits["train"]
    expected = batches(train, stream="eval", view="eval", short_edge=None)
    assert train.kept.mean_bytes == 0
    assert batches(train, stream="train", view="eval", short_edge=None) == expected
    assert train.kept.mean_bytes == 24 * 24 * 3


def test_a_view_that_writes_to_its_image_does_no_harm(root):
    split, views = opened(root), []

    def scribble(image, generator):
        views.append(image.clone())
        return image.fill_(7)

    maker = SampleMaker(split, {"train": scribble}, 0, "train", EDGE)
    good = list(split.ids).index("a/0.jpg")
    for _ in range(3):
        maker.make(good, 0, 0)
    assert all(torch.equal(view, views[0]) for view in views)
    assert views[0].float().std() > 1
    for value in (split.read(good, EDGE), split.read(good, EDGE)):
        assert value.std() > 1
        value[:] = 7


def test_other_kinds_of_samples_are_not_kept():
    text = Split(name="train", ids=["x"], sources=["ab"], sizes=[2], decoder=lambda s: [1, 2])
    assert text.read(0) == [1, 2]
    wide = Split(name="train", ids=["x"], sources=["ab"], sizes=[2], decoder=lambda s: np.zeros((2, 2), np.float32))
    assert wide.read(0).dtype == np.float32
    assert text.kept.mean_bytes == wide.kept.mean_bytes == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(1, 9)), max_size=30), st.integers(0, 900))
def test_memory_gives_back_what_it_was_given(puts, limit):
    kept, known = Kept(10, limit), {}
    for index, height, width in puts:
        array = np.random.default_rng(len(known)).integers(0, 256, (height, width, 3)).astype(np.uint8)
        kept.put("exact", index, array)
        found = kept.get("exact", index)
        if index not in known and found is not None:
            known[index] = array
        assert (found is None) == (index not in known)
        assert kept._arena.used <= limit
    assert all(np.array_equal(kept.get("exact", index), array) for index, array in known.items())
    assert sum(array.nbytes for array in known.values()) == kept._arena.used


def _fill(kept, start, count):
    for index in range(start, start + count):
        kept.put("exact", index, np.full((5, 7, 3), index % 251, np.uint8))
        kept.put("exact", count - 1 - index + start, np.full((5, 7, 3), (count - 1 - index + start) % 251, np.uint8))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="memory is shared by forking")
def test_processes_that_fill_the_memory_at_once():
    kept = Kept(300, 300 * 105)
    kept.open("exact")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(kept, start, 200)) for start in (0, 50, 100)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    found = [kept.get("exact", index) for index in range(300)]
    assert sum(f is not None for f in found) >= 200
    assert all(f is None or (f == index % 251).all() for index, f in enumerate(found))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="memory is shared by forking")
def test_a_process_killed_with_the_lock_stops_nobody(monkeypatch):
    monkeypatch.setattr(decoded, "PATIENCE", 0.05)
    kept = Kept(4, 1000)
    kept.put("exact", 0, np.ones((2, 2, 3), np.uint8))
    kept._arena._lock.acquire()  # and never released
    assert kept.get("exact", 0) is None
    kept.put("exact", 1, np.ones((2, 2, 3), np.uint8))
    assert kept.get("exact", 1) is None


def test_a_split_that_is_pickled_starts_with_little(root):
    split = opened(root)
    split.keep_at(10**12)
    split.read(0) if split.ids[0] != "a/bad.jpg" else split.read(1)
    again = pickle.loads(pickle.dumps(split))
    assert again._kept is None
    assert again.cache_bytes == 256 * 2**20


def test_stored_pixels_come_back_and_are_shared(tmp_path):
    one, two = disk(tmp_path), disk(tmp_path)
    for shape in ((5, 7, 3), (4,), (2, 3), (1, 1, 1)):
        array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        name = "00" + "x".join(map(str, shape))
        assert one.get("exact", name) is None
        one.put("exact", name, array)
        for reader in (one, two, pickle.loads(pickle.dumps(one))):
            assert np.array_equal(reader.get("exact", name), array)
        assert one.get("edge36", name) is None
        assert disk(tmp_path, data="other").get("exact", name) is None


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b"", lambda b: b[:20], lambda b: b"X" + b[1:],
     lambda b: b[:8] + b"\xff\xff\xff\xff" + b[12:], lambda b: b[:-1] + bytes([b[-1] ^ 1])],
)  # fmt: skip
def test_damaged_files_are_found_and_replaced(tmp_path, damage):
    array = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    disk(tmp_path).put("exact", "00ff", array)
    path = disk(tmp_path)._path("exact", "00ff")
    path.write_bytes(damage(path.read_bytes()))
    pixels = disk(tmp_path)
    assert pixels.get("exact", "00ff") is None
    assert not path.exists()
    pixels.put("exact", "00ff", array)
    assert np.array_equal(disk(tmp_path).get("exact", "00ff"), array)


def test_a_file_that_is_written_anew_is_another_sample(root, tmp_path):
    split = opened(root)
    split.keep_at(0, disk(tmp_path))
    index = list(split.ids).index("b/wide.png")
    first = split.read(index, EDGE)
    path = Path(split.sources[index])
    content, times = path.read_bytes(), path.stat()
    Image.fromarray(255 - photo(80, 200, 9)).save(path)
    path.write_bytes(path.read_bytes()[: len(content)].ljust(len(content), b"\0"))  # same length
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # same time of modification
    second = split.read(index, EDGE)
    assert (first.astype(int) - second.astype(int)).std() > 20


def test_a_file_changed_a_moment_ago_is_not_stored(root, monkeypatch):
    path = root / "b" / "wide.png"
    assert file_identity("x", path)
    monkeypatch.setattr(stored, "YOUNG", 1e9)
    assert file_identity("x", path) is None
    assert file_identity("x", root / "nothing.png") is None


def test_room_is_made_by_removing_what_was_unused_longest(tmp_path):
    array = np.zeros((100, 100, 1), np.uint8)
    for number, name in enumerate(("old", "older", "new")):
        pixels = disk(tmp_path, data=name)
        pixels.put("exact", "00aa", array)
        os.utime(pixels.folder / "used", (100 - number % 2 * 50 + number * 10,) * 2)
    last = StoredPixels("mine", 35_000, root=tmp_path / "kept")
    assert last.open(10_000)
    left = [name for name in ("old", "older", "new") if disk_has(tmp_path, name)]
    assert left == ["old", "new"]
    assert StoredPixels("mine", 35_000, root=tmp_path / "kept").open(30_000)
    assert not any(disk_has(tmp_path, name) for name in ("old", "new"))


def disk_has(tmp_path, data):
    return StoredPixels(data, 10**9, root=tmp_path / "kept").get("exact", "00aa") is not None


def test_the_disk_is_bounded_and_a_reader_survives_a_removal(tmp_path):
    pixels = disk(tmp_path, limit=50_000)
    array = np.zeros((1000,), np.uint8)
    for number in range(100):
        pixels.put("exact", f"{number:04x}", array)
    assert 45_000 <= folder_bytes(tmp_path / "kept") <= 50_000 + 50_000 // stored.STEPS + 1100
    shutil.rmtree(pixels.folder)
    assert pixels.get("exact", "0001") is None
    fresh = disk(tmp_path, limit=50_000)
    shutil.rmtree(fresh.folder)
    fresh.put("exact", "0001", array)
    assert np.array_equal(fresh.get("exact", "0001"), array)


def test_a_disk_that_cannot_be_written_only_costs_time(root, tmp_path, monkeypatch):
    split, pixels = opened(root), disk(tmp_path)
    expected = batches(split)
    split.keep_at(0, pixels)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored.os, "replace", full)
    assert batches(split) == expected
    assert not [p for p in (tmp_path / "kept").rglob("*") if p.is_file() and p.name != "used"]
    (tmp_path / "file").write_bytes(b"")
    assert not StoredPixels("x", 10, root=tmp_path / "file" / "below").open(1)


def test_how_small_a_view_lets_a_photograph_be():
    views = image_views(ImageInput(size=(224, 160)), "medium")
    assert views["eval"].short_edge is None
    assert views["train"].short_edge == views["strong"].short_edge == round(224 * ROOM)
    assert views["weak"].short_edge == 259  # 224 / sqrt(0.75)
    pipeline = Pipeline(torch.nn.Identity(), ImageInput(size=(224, 160)), torch.device("cpu"))
    assert pipeline.short_edge(("train",), "medium") == 336
    assert pipeline.short_edge(("weak", "strong"), "none") == 336
    assert pipeline.short_edge(("train", "eval"), "medium") is None
    assert pipeline.short_edge(("train",), "none") is None


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(4, 60))
def test_shrinking_never_goes_below_and_leaves_little_more(height, width, edge):
    found = shrink(np.zeros((height, width, 3), np.uint8), edge).shape
    short = min(height, width)
    assert min(found[:2]) == (edge if short > SPARE * edge else short)
    assert abs(found[0] * width - found[1] * height) <= max(height, width) + min(height, width)


def test_training_on_scaled_photographs_sees_the_same_picture(tmp_path):
    """Crops of the scaled image are crops of the exact one but for resampling."""
    root = folder(tmp_path / "data", {"a": 1, "b": 1}, suffix=".jpg")
    save(root / "a" / "0.jpg", photo(900, 1200, 5))
    split = opened(root)
    view = CropView(ImageInput(size=(96, 96)), flip=True)
    for draw in range(6):
        exact, scaled = (
            SampleMaker(split, {"train": view}, 0, "train", edge).make(0, draw, 0)["train"].int()
            for edge in (None, view.short_edge)
        )
        assert (exact - scaled).abs().float().mean() < 6
    assert split.look(0, view.short_edge)[0].shape == (144, 192, 3)
    assert split.look(0, None)[0].shape == (900, 1200, 3)
