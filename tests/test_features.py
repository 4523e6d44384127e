"""Features of a backbone at rest: equal bits from memory, disk and a fresh pass, whoever asks; views; damage."""

from __future__ import annotations

import copy
import shutil
import threading
from pathlib import Path

import pytest
import tiny_zoo
import torch
from tiny_runs import Halt, make_run, outcome, phase, request, same_bits, start, train_here
from tiny_zoo import Freeze
from zoo_registry import UsageError
from zoo_runs import done, draw_photos

from zoo.data import open_data
from zoo.features.keys import backbone_key, describe_call, sample_hashes
from zoo.features.store import DamagedError, Entry, FeatureStore
from zoo.keys import generator
from zoo.training.feed import Feed
from zoo.training.preparing import prepare_phase
from zoo.training.progress import Reporter

EXACT = {"augment": "none"}


class Notes(Reporter):
    """Keeps what it is told of features."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        if "features" in text:
            self.lines.append(text)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A folder of stored features of the test's own."""
    folder = tmp_path / "features"
    monkeypatch.setattr("zoo.features.store.features_folder", lambda: folder)
    return folder


@pytest.fixture
def images(tmp_path) -> Path:
    """Class folders with all splits."""
    return tiny_zoo.write_images(tmp_path / "images")


def run_on(data, out, *settings, strategy="freeze:2", train=None, **more):
    """Run and return what was said of features."""
    told = Notes()
    start(out, request(data, strategy, "norm", *settings, train=train or EXACT, **more), reporter=told)
    return told.lines


def stored(cache: Path) -> list[Path]:
    """The stored files."""
    return sorted(cache.glob("*/*.safetensors"))


def test_memory_and_disk_give_the_same_run(cache, images, tmp_path):
    cold = run_on(images, tmp_path / "a", "train.features=disk")
    assert [line.split(" computed")[0] for line in cold] == ["features of 41 images", "features of 12 images"]
    warm = run_on(images, tmp_path / "b", "train.features=disk")
    assert warm == ["features of 41 images read from the cache", "features of 12 images read from the cache"]
    memory = run_on(images, tmp_path / "c", "train.features=memory")
    assert "kept" not in memory[0]
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b") == outcome(tmp_path / "c")


def test_short_passes_leave_no_file(cache, images, tmp_path):
    run_on(images, tmp_path / "a")
    assert not cache.exists()


@pytest.mark.slow
def test_another_seed_draws_val_from_the_same_features(cache, tmp_path):
    data = draw_photos(tmp_path / "photos", each=6)
    asked = ("finetune", data, "--backbone", "starter/cnn", "--set", "train.features=disk", "--batch-size", "16")
    done(*asked, "--strategy", "linear:1", "--out", tmp_path / "a")
    more = done(*asked, "--strategy", "linear:1", "--seed", "4", "--out", tmp_path / "b").out
    assert "features of 18 images read from the cache" in more
    ridge = done(*asked, "--strategy", "fit", "--head", "ridge", "--seed", "2", "--out", tmp_path / "c").out
    assert "features of 18 images read from the cache" in ridge
    assert len(stored(cache)) == 1
    said = done("evaluate", tmp_path / "c", data, "--split", "val")
    assert "features of 3 samples read from the cache" in said.out
    assert_close(said.out, done("evaluate", tmp_path / "c", data, "--split", "val", "--no-features").out)


def assert_close(one: str, two: str) -> None:
    """The same lines but for the one on features."""
    assert [line for line in one.splitlines() if "features" not in line] == two.splitlines()


@pytest.mark.slow
def test_damaged_features_are_computed_again(cache, images, tmp_path):
    run_on(images, tmp_path / "a", "train.features=disk")
    spoiled = stored(cache)
    for path in spoiled:
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    again = run_on(images, tmp_path / "b", "train.features=disk")
    assert "damaged (its sha256 is wrong)" in again[0]
    assert "computed in" in again[1]
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")
    assert run_on(images, tmp_path / "c", "train.features=disk")[0].endswith("read from the cache")


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{nonsens", b"short"])
def test_a_file_that_is_none_is_damaged(cache, content):
    store = FeatureStore(10**6)
    path = store.path("a" * 64, "b" * 64, "c" * 64)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DamagedError):
        store.read(path)
    assert not path.exists()


def test_changed_pixels_are_other_features(cache, images, tmp_path):
    run_on(images, tmp_path / "a", "train.features=disk")
    first, second = sorted((images / "train" / "class0").glob("*.png"))[:2]
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    lines = run_on(images, tmp_path / "b", "train.features=disk")
    assert "41 images computed" in lines[0]
    assert lines[1] == "features of 12 images read from the cache"
    assert outcome(tmp_path / "a") != outcome(tmp_path / "b")


def test_data_that_cannot_be_told_stays_in_memory(cache, tmp_path):
    lines = run_on(None, tmp_path / "a", "train.features=disk")
    assert any("the content of the samples is not known beforehand" in line for line in lines)
    assert not stored(cache)


def test_unreadable_samples_are_known_from_the_cache(cache, images, tmp_path):
    spoiled = sorted((images / "train" / "class1").glob("*.png"))[0]
    spoiled.write_bytes(b"no image")
    run_on(images, tmp_path / "a", "train.features=disk", "data.max_bad=2")
    run_on(images, tmp_path / "b", "train.features=disk", "data.max_bad=2")
    listed = (tmp_path / "b" / "bad_samples.csv").read_text()
    assert listed == (tmp_path / "a" / "bad_samples.csv").read_text()
    assert spoiled.name in listed
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")


def test_a_full_disk_does_not_stop_a_run(cache, images, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo.features.store.write_tensors", full)
    lines = run_on(images, tmp_path / "a", "train.features=disk")
    assert "features cannot be kept on the disk: No space left on device" in lines
    lines = run_on(images, tmp_path / "b", "train.features=disk", "train.features_gb=1e-7")
    assert "features take more than train.features_gb and are not kept on the disk" in lines


def test_off_runs_the_backbone_each_epoch(images):
    run = make_run([], open_data(images), features="off")
    assert not Feed(run, phase(Freeze(), augment="none", epochs=1)).cached


class Keyed(torch.nn.Module):
    """A module with all that a key must see."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)
        self.register_buffer("hidden", torch.zeros(2), persistent=False)

    def forward(self, x):
        return self.norm(x).mean((2, 3)) + self.hidden.sum()


def changed(key: str) -> Keyed:
    """A fresh module, changed in one way."""
    module = Keyed()
    with torch.no_grad():
        if key == "weight":
            module.norm.weight[1] += 1e-7
        elif key == "statistics":
            module.norm.running_var[0] = 2
        elif key == "hidden":
            module.hidden[0] = 1
        elif key == "eps":
            module.norm.eps = 1e-3
        elif key == "part":
            module.norm = torch.nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
    return module


@pytest.mark.parametrize("what", ["weight", "statistics", "hidden", "eps", "part"])
def test_the_key_sees_every_change(what):
    assert backbone_key(changed(what)) != backbone_key(Keyed()) == backbone_key(copy.deepcopy(Keyed()))


def test_the_key_does_not_see_how_a_module_is_used():
    frozen = Keyed().eval().requires_grad_(False)
    assert backbone_key(frozen) == backbone_key(Keyed().train())


def test_what_cannot_be_told_has_no_key():
    hooked, patched = Keyed(), Keyed()
    hooked.norm.register_forward_hook(lambda *_: None)
    patched.forward = lambda x: x
    assert backbone_key(hooked) is None
    assert backbone_key(patched) is None
    assert describe_call(lambda x: x) is None


def test_hashes_are_of_content(images, tmp_path):
    split = open_data(images).split("train")
    copied = open_data(shutil.copytree(images, tmp_path / "copy")).split("train")
    assert sample_hashes(split) == sample_hashes(copied)
    assert len(set(sample_hashes(split))) == len(split)


def entry(value: float, rows: int = 64) -> Entry:
    """An entry of 256 bytes a row, and what else there is."""
    return Entry(torch.full((rows, 64), float(value)), list(range(rows)), [], torch.zeros(rows, 32, dtype=torch.uint8))


def test_the_longest_unused_goes_first(cache):
    store = FeatureStore(3 * 20_000)
    paths = [store.path(letter * 64, "0" * 64, "1" * 64) for letter in "abcd"]
    for number, path in enumerate(paths[:3]):
        store.write(path, entry(number))
        age(path, 100 - number)
    assert float(store.read(paths[0]).features[0, 0]) == 0  # used now
    store.write(paths[3], entry(3))
    assert [path.exists() for path in paths] == [True, False, True, True]
    assert store.write(paths[1], entry(1, rows=1000)) == 0
    assert sum(path.stat().st_size for path in stored(cache)) <= store.limit


def age(path: Path, seconds: float) -> None:
    """Let it look so long unused."""
    import os
    import time

    os.utime(path, (time.time() - seconds,) * 2)


def test_readers_and_writers_at_once_see_whole_entries(cache):
    store, wrong, stop = FeatureStore(2 * 20_000), [], threading.Event()
    paths = [store.path(letter * 64, "0" * 64, "1" * 64) for letter in "abcd"]

    def write(number: int) -> None:
        for _ in range(12):
            store.write(paths[number], entry(number))

    def read() -> None:
        while not stop.is_set():
            for number, path in enumerate(paths):
                try:
                    found = store.read(path)
                except DamagedError as error:
                    wrong.append(str(error))
                    continue
                if found is not None and not bool((found.features == number).all()):
                    wrong.append(f"{path} has other features")

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert wrong == []
    assert not list(cache.glob("*/.*"))


def prepared(data, views: int, **options):
    """A feed of features under augmented views, open."""
    learning = resting("light", 6)
    run = make_run([learning], data, views=views, **options)
    feed = prepare_phase(run, learning, before={}).feed
    feed.open()
    return run, feed


def resting(augment: str, epochs: int):
    """A phase in which the backbone rests."""
    from zoo_registry import StrategySpec

    spec = StrategySpec(name="freeze", summary="of a test", factory="a:b")
    return phase((spec, Freeze()), augment=augment, epochs=epochs)


def test_epochs_cycle_through_the_views(images):
    run, feed = prepared(open_data(images), 2)
    assert feed.cached
    by_epoch = []
    for epoch in range(4):
        found = {}
        for step in feed.epoch(epoch):
            for micro in step:
                batch = micro["train"]
                found |= dict(zip(batch.ids, batch.features, strict=True))
        by_epoch.append(torch.stack([found[i] for i in range(len(run.train))]))
    assert torch.equal(by_epoch[0], by_epoch[2])
    assert torch.equal(by_epoch[1], by_epoch[3])
    assert not torch.equal(by_epoch[0], by_epoch[1])


def test_a_view_is_drawn_by_its_number_and_the_seed(images):
    run, feed = prepared(open_data(images), 3)
    split, transform = run.train, run.pipeline.transform("train", augment="light")
    kept = feed._kept[2]
    order = sorted(range(len(split)), key=lambda index: split.ids[index])
    run.model.eval()
    for place in (0, 7, 25):
        image = torch.from_numpy(split.read(order[place])).permute(2, 0, 1)
        view = transform(image, generator(run.seed, 0, place, "features", "view 2"))
        with torch.no_grad():
            expected = run.model.backbone(run.pipeline.feed(view[None]))[0]
        found = kept.features[kept.places[order[place]]]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_validation_keeps_the_exact_view(images):
    run, feed = prepared(open_data(images), 2)
    features, indices = feed.validation
    plain = make_run([], open_data(images), features="off")
    expected, same = plain.extract_rows(run.model, "val")
    assert indices == same
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("halt", [3, 9])
def test_killed_and_resumed_with_views_gives_the_same_bits(images, tmp_path, halt):
    def fresh():
        return make_run([resting("light", 5)], open_data(images), views=3)

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = fresh()
    train_here(whole, tmp_path / "whole")
    with pytest.raises(Halt):
        train_here(fresh(), tmp_path / "killed", halt=halt)
    resumed = fresh()
    train_here(resumed, tmp_path / "killed")
    assert same_bits(whole.model.state_dict(), resumed.model.state_dict())


@pytest.mark.slow
def test_more_views_find_those_that_are_known(cache, images, tmp_path):
    settings, train = ("train.features=disk",), {"augment": "light"}
    run_on(images, tmp_path / "a", *settings, "train.views=2", strategy="freeze:4", train=train)
    lines = run_on(images, tmp_path / "b", *settings, "train.views=3", strategy="freeze:4", train=train)
    assert lines[:3] == [
        "features of 26 images, augmented view 1, read from the cache",
        "features of 26 images, augmented view 2, read from the cache",
        lines[2],
    ]
    assert lines[2].startswith("features of 26 images, augmented view 3, computed")
    assert lines[3] == "features of 15 images read from the cache"


@pytest.mark.parametrize(
    ("settings", "strategy", "augment", "said"),
    [
        (("train.views=2",), "whole:2", "light", "tiny/whole touch"),
        (("train.views=2",), "freeze:2", "none", "2 equal views"),
        (("train.views=2", "train.features=off"), "freeze:2", "light", "features that are kept"),
    ],
)
def test_views_where_they_make_no_sense_are_refused(images, tmp_path, settings, strategy, augment, said):
    with pytest.raises(UsageError, match=said):
        start(tmp_path / "a", request(images, strategy, "norm", *settings, train={"augment": augment}))
    assert not (tmp_path / "a").exists()


def test_bf16_features_are_kept_apart_and_final_metrics_stay_float32(cache, images, tmp_path):
    run_on(images, tmp_path / "a", "train.features=disk")
    lines = run_on(images, tmp_path / "b", "train.features=disk", "train.features_precision=bf16")
    assert [line.split(" computed")[0] for line in lines] == ["features of 41 images"]  # test is evaluated as ever
    a, b = (make_run([], open_data(images), features_precision=name) for name in ("float32", "bf16"))
    exact, rounded = a.extract_rows(a.model)[0], b.extract_rows(b.model)[0]
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.05, atol=0.02)
