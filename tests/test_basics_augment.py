"""``trivial-augment`` and ``rand-augment``: torchvision's policies under the zoo's own randomness."""

from __future__ import annotations

import pickle

import pytest
import tiny_zoo
import torch
from tiny_runs import Halt, make_run, phase, same_bits, train_here
from torchvision.transforms import v2
from zoo_registry import ImageInput, Registry, UsageError
from zoo_registry.options import parse_options
from zoo_registry.strategy import cacheable

from zoo.data import open_data
from zoo.data.loader import ViewLoader, in_order
from zoo.data.transforms import image_views
from zoo.keys import generator

REGISTRY = Registry()
NAMES = ("trivial-augment", "rand-augment")


def part(name: str, **options):
    """The spec and the strategy."""
    entry = REGISTRY.strategy(f"basics/{name}")
    return entry.spec, entry.factory()(entry.spec, parse_options(entry.spec.options, options, where=name))


def same(image, draw):
    """A transform that changes nothing."""
    return image


def picture(channels: int = 3) -> torch.Tensor:
    """A drawn uint8 image of 24 x 20 pixels."""
    return torch.randint(0, 256, (channels, 24, 20), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


POLICIES = {
    ("trivial-augment",): lambda: v2.TrivialAugmentWide(fill=0),
    ("trivial-augment", "fill", 128): lambda: v2.TrivialAugmentWide(fill=128),
    ("rand-augment",): lambda: v2.RandAugment(num_ops=2, magnitude=9, fill=0),
    ("rand-augment", "ops", 3, "magnitude", 20): lambda: v2.RandAugment(num_ops=3, magnitude=20, fill=0),
}


@pytest.mark.parametrize("case", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_policies_are_torchvisions(case, channels):
    name, *rest = case
    view = part(name, **dict(zip(rest[::2], rest[1::2], strict=True)))[1].augment(same, "train", "train")
    changed = 0
    for draw in range(40):
        seed = int(torch.randint(2**62, (), generator=generator(draw)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            wanted = POLICIES[case]()(picture(channels))
        found = view(picture(channels), generator(draw))
        assert found.dtype == torch.uint8
        assert torch.equal(found, wanted)
        changed += not torch.equal(found, picture(channels))
    assert changed > 20


@pytest.mark.parametrize("name", NAMES)
def test_randomness_is_the_generators_alone(name):
    view = part(name)[1].augment(same, "train", "train")
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = [view(picture(), generator(draw)) for draw in range(20)]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    two = [view(picture(), generator(draw)) for draw in reversed(range(20))]
    assert all(torch.equal(a, b) for a, b in zip(one, reversed(two), strict=True))
    assert len({a.sum().item() for a in one}) > 8


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [2, 5])
def test_other_channels_are_changed_alike(name, channels):
    view = part(name)[1].augment(same, "train", "train")
    grey = picture(1).expand(channels, -1, -1)
    for draw in range(30):
        found = view(grey, generator(draw))
        assert found.shape == grey.shape
        assert all(torch.equal(found[0], channel) for channel in found)  # moved by the same draw
        assert torch.equal(found[:1], view(picture(1), generator(draw)))


@pytest.mark.parametrize("name", NAMES)
def test_only_the_train_view_is_changed_and_never_cached(name):
    spec, strategy = part(name)
    for view in ("eval", "weak", "strong"):
        assert strategy.augment(same, "train", view) is same
    assert strategy.augment(same, "unlabelled", "train") is not same
    assert not cacheable([spec])
    assert not strategy.augment(same, "train", "train").deterministic


@pytest.mark.parametrize("sample", [torch.zeros(3, 8, 8), (picture(), {"map": 0}), "some text", {"ids": 1}])
def test_what_is_no_image_is_refused(sample):
    view = part("trivial-augment")[1].augment(same, "train", "train")
    with pytest.raises(UsageError, match="'trivial-augment' changes images"):
        view(sample, generator(0))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_same_in_workers(name):
    data = open_data(tiny_zoo.drawn_splits(12))
    inner = image_views(ImageInput(size=(16, 16)), "medium")["train"]
    view = pickle.loads(pickle.dumps(part(name)[1].augment(inner, "train", "train")))
    found = []
    for workers in (0, 2):
        loader = ViewLoader(data.split("train"), {"train": view}, workers=workers)
        found.append(torch.cat([b.views["train"] for b in loader.batches(in_order(12, 5), epoch=1)]))
        loader.close()
    assert torch.equal(*found)


@pytest.mark.parametrize("names", [("trivial-augment", "full"), ("rand-augment", "linear")])
def test_in_the_loop_they_resume_to_the_same_bits(names, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)
    made = lambda: make_run([phase(*(part(name) for name in names))])  # noqa: E731
    whole = made()
    rows = train_here(whole)
    with pytest.raises(Halt):
        train_here(made(), tmp_path, 3)
    resumed = made()
    assert train_here(resumed, tmp_path) == rows
    assert same_bits(resumed.model.state_dict(), whole.model.state_dict())
    plain = make_run([phase(part(names[1]))])
    train_here(plain)
    assert not same_bits(plain.model.state_dict(), whole.model.state_dict())
