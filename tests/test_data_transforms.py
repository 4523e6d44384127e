"""Views of images: evaluation against timm, augmentation by the generator alone, normalising."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from data_images import photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from zoo_registry.errors import UsageError
from zoo_registry.inputs import ImageInput

from zoo.data.geometry import resize, to_channels
from zoo.data.transforms import EvalView, image_views, mean_colour, normalise
from zoo.keys import generator, key

SHAPES = [(375, 500), (500, 333), (64, 64), (30, 41), (8, 8), (1, 7), (256, 256), (224, 224), (90, 700)]
MODES = [
    ((224, 224), 0.875, "center"),
    ((224, 224), 0.9, "center"),
    ((96, 96), 1.0, "center"),
    ((64, 64), 0.95, "squash"),
    ((128, 128), 1.0, "squash"),
    ((64, 64), 0.9, "border"),
    ((112, 80), 0.9, "center"),
    ((112, 80), 0.95, "squash"),
    ((112, 80), 1.0, "border"),
]


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize(("size", "crop_pct", "crop_mode"), MODES)
def test_evaluation_is_timms(size, crop_pct, crop_mode, interpolation):
    data = pytest.importorskip("timm.data")
    facts = ImageInput(size=size, crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation)
    oracle = data.create_transform(
        (3, *size), is_training=False, interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode,
        mean=facts.mean, std=facts.std, use_prefetcher=True,
    )  # fmt: skip
    for seed, shape in enumerate(SHAPES):
        pixels = photo(*shape, seed=seed)
        expected = np.asarray(oracle(Image.fromarray(pixels))).astype(int)
        got = EvalView(facts)(tensor(pixels)).numpy().astype(int)
        assert got.shape == expected.shape == (3, *size)
        assert np.abs(got - expected).max() == 0, shape


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_fast_filters_of_training_stay_close(interpolation):
    for seed, (shape, size) in enumerate(zip(SHAPES, reversed(SHAPES))):
        image = tensor(photo(*shape, seed=seed))
        exact, fast = (resize(image, size, interpolation, exact=e).int() for e in (True, False))
        assert (exact - fast).abs().max() <= 2
        assert ((exact - fast).abs() > 1).float().mean() < 1e-3


def test_normalised_evaluation_is_timms():
    data = pytest.importorskip("timm.data")
    facts = ImageInput(size=(64, 64), mean=(0.48, 0.45, 0.4), std=(0.26, 0.26, 0.27))
    oracle = data.create_transform(
        (3, 64, 64), is_training=False, interpolation="bicubic", mean=facts.mean, std=facts.std
    )
    batch = EvalView(facts)(tensor(photo(100, 90)))[None]
    ours, theirs = normalise(batch, facts)[0], oracle(Image.fromarray(photo(100, 90)))
    assert ours.dtype == torch.float32
    assert torch.equal(ours, theirs)
    exact = torch.tensor(np.array([[[0, 255]]] * 3, dtype=np.uint8))[None]
    mean, std = (torch.tensor(v)[:, None, None] for v in (facts.mean, facts.std))
    assert torch.equal(normalise(exact, facts)[0], (exact[0] / 255 - mean) / std)


def test_very_long_images_do_not_fill_the_memory():
    view = EvalView(ImageInput(size=(64, 64)))
    assert view(tensor(np.full((1, 60_000, 3), 7, np.uint8))).unique().tolist() == [7]
    assert view(tensor(np.full((60_000, 1, 3), 7, np.uint8))).unique().tolist() == [7]


def test_one_channel_is_pillows_grey():
    pixels = photo(50, 50)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.array_equal(to_channels(tensor(pixels), 1)[0].numpy(), grey)
    assert to_channels(torch.from_numpy(grey.copy())[None], 3).shape == (3, 50, 50)
    view = EvalView(ImageInput(size=(32, 32), channels=1))
    assert view(tensor(pixels)).shape == (1, 32, 32)
    batch = normalise(view(tensor(pixels))[None], ImageInput(channels=1))
    assert torch.isfinite(batch).all()
    with pytest.raises(UsageError, match="3 channels do not fit a model of 4"):
        to_channels(tensor(pixels), 4)


@pytest.mark.parametrize("view", ["train", "weak", "strong"])
@pytest.mark.parametrize("level", ["light", "medium", "strong"])
def test_augmentation_draws_from_its_generator_alone(level, view):
    make = image_views(ImageInput(size=(48, 32)), level)[view]
    image = tensor(photo(60, 80))
    before = image.clone()
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    first = make(image, generator(1))
    torch.manual_seed(1)
    assert torch.equal(first, make(image, generator(1)))
    torch.manual_seed(0)
    make(image, generator(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(image, before)
    assert first.shape == (3, 48, 32)
    assert first.dtype == torch.uint8
    assert len({make(image, generator(i)).numpy().tobytes() for i in range(20)}) > 15
    assert torch.equal(pickle.loads(pickle.dumps(make))(image, generator(1)), first)
    assert not make.deterministic


def test_none_is_the_evaluation_view_and_says_that_it_may_be_cached():
    views = image_views(ImageInput(size=(32, 32)), "none")
    assert views["train"].deterministic
    image = tensor(photo(60, 80))
    assert torch.equal(views["train"](image, generator(0)), views["eval"](image, None))


def mirrored(views, name):
    """Whether a picture that is dark on the left ever comes out dark on the right."""
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, :, 32:] = 250
    drawn = [views[name](image, generator(i)).float() for i in range(40)]
    return any(d[:, :, 0].mean() > d[:, :, -1].mean() for d in drawn)


def test_flips_belong_to_photographs():
    facts = ImageInput(size=(32, 32))
    for level, expected in (("light", False), ("medium", True), ("strong", True)):
        views = image_views(facts, level)
        assert [mirrored(views, name) for name in ("train", "weak", "strong")] == [expected] * 3
    assert not mirrored(image_views(facts, "medium", flip=False), "train")


def test_light_keeps_most_of_the_image_and_medium_does_not():
    ramp = torch.arange(256, dtype=torch.uint8).repeat(3, 256, 1)
    facts = ImageInput(size=(64, 64), interpolation="bilinear")

    def spans(level):
        view = image_views(facts, level, flip=False)["train"]
        return [int(v.max()) - int(v.min()) for v in (view(ramp, generator(i)) for i in range(60))]

    assert min(spans("light")) > 0.75 * 255
    assert min(spans("medium")) < 0.7 * 255


def test_erasing_fills_with_the_mean_colour():
    facts = ImageInput(size=(64, 64), mean=(0.1, 0.5, 0.9))
    view = image_views(facts, "strong")["strong"]
    white = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    shares = []
    for i in range(40):
        pixels = view(white, generator(i))
        shares.append(
            (pixels == torch.tensor(mean_colour(facts), dtype=torch.uint8)[:, None, None]).all(0).float().mean()
        )
    erased = [float(s) for s in shares if s > 0]
    assert 8 < len(erased) < 32
    assert 0.01 < min(erased)
    assert max(erased) < 0.25


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 9),
    st.sampled_from([1, 3]),
)
def test_any_size_gives_the_inputs_size(height, width, h, w, seed, channels):
    image = tensor(photo(height, width, seed))
    for mode in ("center", "squash", "border"):
        facts = ImageInput(size=(h, w), channels=channels, crop_mode=mode)
        for view in image_views(facts, "strong").values():
            assert view(image, generator(seed)).shape == (channels, h, w)


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: image_views(ImageInput(), "mediun"), "'medium'"),
        (lambda: EvalView(ImageInput(crop_mode="middle"))(tensor(photo())), "squash"),
        (lambda: EvalView(ImageInput(interpolation="cubic"))(tensor(photo())), "bicubic"),
        (lambda: normalise(torch.zeros(1, 4, 2, 2, dtype=torch.uint8), ImageInput()), "channel"),
    ],
)
def test_wrong_values(call, hint):
    with pytest.raises(UsageError) as caught:
        call()
    assert hint in caught.value.hint


def test_threads_do_not_change_pixels():
    """Otherwise the number of workers would: a worker has one thread."""
    image = tensor(photo(400, 500))
    count = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            views = image_views(ImageInput(), "strong")
            results.append([v(image, generator(3)) for v in views.values()])
    finally:
        torch.set_num_threads(count)
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_resize_leaves_the_right_size_alone():
    image = tensor(photo(20, 30))
    assert resize(image, (20, 30), "bicubic") is image


def test_keys_are_stable_and_apart():
    assert key(1, "train", 2) == key(1, "train", 2) == 351721177999418484
    assert len({key(*p) for p in [(1, 2), (12,), ("1", 2), (1, "2"), (2, 1), ((1, 2),)]}) == 6
    assert 0 <= key("x") < 2**63


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 4, 4), (3, 4, 1, 6), (2, 3, 1, 1)])
def test_the_layout_does_not_change_what_normalising_gives(shape):
    batch = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(1))
    for mean, std in (((0.5,), (0.25,)), (tuple(0.1 * (k + 1) for k in range(shape[1])), (0.2,) * shape[1])):
        facts = ImageInput(size=shape[2:], channels=shape[1], mean=mean, std=std)
        expected = normalise(batch, facts)
        last = batch.contiguous(memory_format=torch.channels_last)
        got = normalise(last, facts)
        assert torch.equal(got, expected)
        assert got.stride() == last.stride()
        for memory in (torch.empty(shape), torch.empty(shape, memory_format=torch.channels_last)):
            assert torch.equal(normalise(last, facts, memory), expected)
            assert memory.data_ptr() == normalise(batch, facts, memory).data_ptr()
