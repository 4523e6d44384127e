"""How many workers, and where decoded images are kept: the rules, and what a run makes of them."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import zoo_runs  # noqa: F401
from data_images import photo, save
from hypothesis import given
from hypothesis import strategies as st
from zoo_registry.errors import UsageError
from zoo_registry.options import check_options

from zoo.data import supply
from zoo.data.loader import ViewLoader, in_order
from zoo.data.prefetch import prefetched
from zoo.data.supply import choose_storage, core_count, free_disk, worker_count
from zoo.recipe import TrainOptions

MANY = 10**6


@pytest.mark.parametrize(
    ("load", "step", "samples", "device", "cores", "workers"),
    [
        (0.002, 0.010, 1000, "cpu", 8, 0),  # two seconds in all
        (0.002, 0.100, MANY, "cpu", 8, 0),  # a fiftieth of a step
        (0.008, 0.010, MANY, "cpu", 2, 0),  # a worker would hold up a core of the steps
        (0.020, 0.010, MANY, "cpu", 8, 8),
        (0.050, 0.001, MANY, "cpu", 64, 16),
        (0.002, 0.0005, MANY, "cuda", 16, 5),  # 1.25 times the rate of the steps
        (0.010, 0.0001, MANY, "cuda", 64, 16),
        (0.010, 0.0001, MANY, "cuda", 4, 3),
        (0.010, 0.0, MANY, "cuda", 1, 1),
    ],
)
def test_workers(load, step, samples, device, cores, workers):
    assert worker_count(load, step, samples, device=device, cores=cores) == workers


@given(
    st.floats(0, 1), st.floats(0, 1), st.integers(0, MANY), st.sampled_from(["cpu", "cuda", "mps"]), st.integers(1, 99)
)
def test_workers_stay_within_the_cores(load, step, samples, device, cores):
    assert 0 <= worker_count(load, step, samples, device=device, cores=cores) <= min(cores, supply.MOST)


@pytest.mark.parametrize(
    ("asked", "needed", "epochs", "files", "limit", "where", "share"),
    [
        ("auto", 10, 1, True, 0, "memory", 1.0),
        ("auto", 300, 10, True, 0, "disk", 1.0),
        ("auto", 300, 2, True, 0, "memory", 250 / 300),
        ("auto", 300, 10, False, 0, "memory", 250 / 300),
        ("auto", 5000, 10, True, 0, "memory", 0.05),  # neither holds all
        ("disk", 5000, 1, True, 0, "disk", 0.5),
        ("disk", 5000, 1, False, 0, "disk", 0.0),
        ("memory", 300, 10, True, 100, "memory", 1 / 3),
        ("off", 10, 10, True, 0, "off", 0.0),
        ("auto", 0, 10, True, 0, "memory", 1.0),
    ],
)
def test_storage(asked, needed, epochs, files, limit, where, share):
    found = choose_storage(asked, needed, epochs, memory=1000, disk=10_000, files=files, limit=limit)
    assert (found.where, found.share) == (where, pytest.approx(share))


def test_what_the_machine_has(tmp_path):
    assert core_count() >= 1
    assert free_disk(tmp_path / "not" / "there") == pytest.approx(free_disk(tmp_path), rel=0.2)


def test_the_option():
    for good, value in (("auto", "auto"), ("3", 3), (0, 0)):
        assert check_options(TrainOptions, {"workers": good}, where="train")[0].workers == value
    for wrong in ("many", "-1", 257, "1.5"):
        assert check_options(TrainOptions, {"workers": wrong}, where="train")[1], wrong


@pytest.fixture
def photos(tmp_path):
    for number in range(24):
        name = "light" if number % 2 else "dark"
        pixels = (photo(120, 160, number) * (1.0 if number % 2 else 0.4)).astype("uint8")
        save(tmp_path / "photos" / name / f"{number}.jpg", pixels)
    return tmp_path / "photos"


def finetuned(photos, out, *settings, **options):
    import zoo

    options = {"backbone": "starter/cnn", "strategy": "full:2", "augment": "medium", **options}
    zoo.finetune(photos, out=out, device="cpu", image_size=32, settings=list(settings), **options)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train_loss"] for row in rows if row.get("event") == "epoch"]
    return losses, (out / "model" / "model.safetensors").read_bytes(), (out / "recipe.toml").read_text()


@pytest.mark.slow
def test_a_run_gives_the_same_bits_whatever_is_kept_and_whoever_loads(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.training.supply.decoded_folder", lambda: tmp_path / "kept")
    monkeypatch.setattr("zoo.data.stored.decoded_folder", lambda: tmp_path / "kept")
    monkeypatch.setattr("zoo.data.stored.YOUNG", -1.0)
    first = finetuned(photos, tmp_path / "a")
    assert "workers = 0" in first[2]
    assert not (tmp_path / "kept").exists()
    assert finetuned(photos, tmp_path / "b", "train.cache=disk", workers=1)[:2] == first[:2]
    assert len([p for p in (tmp_path / "kept").rglob("*") if p.is_file() and p.name != "used"]) >= 19
    exact = finetuned(photos, tmp_path / "c", "train.decode=exact", "train.cache=off")
    assert exact[0] != first[0]
    assert 'decode = "scaled"' in first[2]


@pytest.mark.slow
def test_workers_are_chosen_measured_and_written_down(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(supply, "SHORT", 0.0)
    monkeypatch.setattr(supply, "LITTLE", 0.0)
    monkeypatch.setattr("zoo.training.supply._step_seconds", lambda *_: 0.0)  # loading takes longer
    losses, weights, recipe = finetuned(photos, tmp_path / "a")
    chosen = next(int(line.partition("=")[2]) for line in recipe.splitlines() if line.startswith("workers ="))
    assert chosen == core_count()
    monkeypatch.undo()
    assert finetuned(photos, tmp_path / "b")[:2] == (losses, weights)


def test_wrong_values_are_refused(photos, tmp_path):
    for setting in ("train.decode=fast", "train.cache=ram", "train.cache_gb=-1", "train.workers=few"):
        with pytest.raises(UsageError):
            finetuned(photos, tmp_path / "x", setting)
    assert not (tmp_path / "x").exists()


def loaded(tmp_path, count=13):
    from zoo_registry.inputs import ImageInput

    from zoo.data import open_data
    from zoo.data.transforms import image_views

    for number in range(count):
        save(tmp_path / "ab"[number % 2] / f"{number}.png", seed=number)
    split = open_data(tmp_path, split="all", check_leaks=False).splits["all"]
    return split, {"train": image_views(ImageInput(size=(16, 16)), "medium")["train"]}


def test_prefetching_is_nothing_on_a_cpu(tmp_path):
    split, views = loaded(tmp_path)
    batches = list(ViewLoader(split, views).batches(in_order(len(split), 4)))
    assert list(prefetched(batches, torch.device("cpu"))) == batches


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_ahead_on_a_cuda_device(tmp_path, workers):
    split, views = loaded(tmp_path)
    (tmp_path / "a" / "0.png").write_bytes(b"")
    device = torch.device("cuda")
    plan = in_order(len(split), 4) * 5
    with ViewLoader(split, views, workers=workers) as plain:
        expected = list(plain.batches(plan, 1))
    with ViewLoader(split, views, workers=workers, pin_memory=True, device=device) as ahead:
        found = [dataclasses.replace(b, views={n: v * 1 for n, v in b.views.items()}) for b in ahead.batches(plan, 1)]
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        assert (one.ids, one.draws, one.bad) == (two.ids, two.draws, two.bad)
        assert one.views["train"].device.type == "cuda"
        assert one.views["train"].is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(one.views["train"].cpu(), two.views["train"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_batch_that_is_used_slowly_is_not_overwritten(tmp_path):
    """The allocator must not hand out memory of the side stream that the main one still reads."""
    split, views = loaded(tmp_path)
    device = torch.device("cuda")
    plan = in_order(len(split), 4) * 20
    sums = []
    with ViewLoader(split, views, pin_memory=True, device=device) as loader:
        for batch in loader.batches(plan, 1):
            torch.cuda._sleep(5_000_000)
            sums.append(batch.views["train"].sum(dtype=torch.int64))
            del batch
    with ViewLoader(split, views) as loader:
        assert [int(s) for s in sums] == [int(b.views["train"].sum()) for b in loader.batches(plan, 1)]
