"""Assembly: one path from names to a module, which says what was loaded and what is random."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path

import pytest
import torch
from hub_fixtures import flip, write_manifest
from safetensors.torch import load_file, save_file
from torch import nn
from zoo_registry import (
    BackboneSpec,
    Batch,
    Classifier,
    Column,
    Exported,
    HubError,
    IntegrityError,
    Registry,
    TextInput,
    UsageError,
    Weights,
)
from zoo_registry.discovery import Plugin

from zoo.assembly.assemble import assemble_model
from zoo.assembly.finite import check_finite
from zoo.assembly.fit import check_fit, check_weights, resolve_input
from zoo.assembly.model import FoldedHead, TransferModel, under
from zoo.assembly.weights import installed_backbones, locate_weights
from zoo.bundle.read import verify_bundle
from zoo.bundle.write import Findings, write_bundle
from zoo.hub import open_hub
from zoo.recipe import Component, PhaseRecipe, Recipe

REGISTRY = Registry()
LABEL = (Column(name="label", classes=("a", "b", "c")),)
CNN = REGISTRY.backbone("starter/cnn")


def cnn(**options):
    asked = {"backbone": "starter/cnn", "head": "linear", "columns": LABEL, **options}
    return assemble_model(REGISTRY, **asked)


def test_pretrained_weights_are_mapped_in_bit_by_bit_and_reported():
    made = cnn()
    located = locate_weights(CNN, REGISTRY)
    file = load_file(located.path)
    state = made.model.backbone.model.state_dict()
    assert made.report.loaded == len(state)
    assert (made.report.initialised, made.report.resized) == ((), ())
    assert all(torch.equal(state[name], file[name]) for name in state)
    assert located.source["kind"] == "package"
    assert made.weights == located.source


def test_without_weights_the_seed_decides_and_the_global_random_state_rests():
    state = torch.random.get_rng_state()
    first, same, other = (cnn(pretrained=False, seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_head_does_not_depend_on_what_the_backbone_drew():
    assert torch.equal(cnn(pretrained=False).model.head.layer.weight, cnn().model.head.layer.weight)


def test_another_image_size_and_other_channels():
    made = cnn(image_size=96, in_chans=1)
    assert made.input.size == (96, 96)
    assert (made.input.channels, made.input.mean) == (1, (0.5,))
    assert len(made.report.resized) == 1, "the first convolution alone sees the channels"
    assert made.model.predict(torch.zeros(1, 1, 96, 96))["label"].shape == (1, 3)
    assert any("resized" in line for line in made.summary())


def test_what_does_not_fit_is_said():
    narrow = dataclasses.replace(CNN, spec=dataclasses.replace(CNN.spec, capabilities=frozenset()))
    with pytest.raises(UsageError, match="64 px alone, not 96"):
        resolve_input(narrow, 96, None)
    with pytest.raises(UsageError, match="3 channels alone, not 1"):
        resolve_input(narrow, None, 1)
    assert resolve_input(narrow, 64, 3) == CNN.spec.input
    linear = REGISTRY.head("linear")
    with pytest.raises(UsageError, match=r"for classification, the data has x \(regression\)"):
        check_fit(CNN, linear, (Column(name="x", kind="regression"),))
    needy = dataclasses.replace(linear, spec=dataclasses.replace(linear.spec, needs=frozenset({"encode_text"})))
    with pytest.raises(UsageError, match="needs encode_text"):
        check_fit(CNN, needy, LABEL)
    tokens = dataclasses.replace(linear, spec=dataclasses.replace(linear.spec, features=("tokens",)))
    with pytest.raises(UsageError, match="takes tokens features"):
        check_fit(CNN, tokens, LABEL)


def _with_weights(**changes):
    weights = dataclasses.replace(CNN.spec.weights, **changes)
    return dataclasses.replace(CNN, spec=dataclasses.replace(CNN.spec, weights=weights))


def test_weights_that_are_not_safe_or_not_there_are_refused_with_the_way_on():
    with pytest.raises(UsageError, match="no safe weights: only a pickle") as caught:
        check_weights(_with_weights(unsafe="only a pickle at x"))
    assert "--no-pretrained" in caught.value.hint
    bare = dataclasses.replace(CNN, spec=dataclasses.replace(CNN.spec, weights=None))
    with pytest.raises(UsageError, match="no pretrained weights"):
        locate_weights(bare, REGISTRY)


def test_damaged_or_missing_package_weights_name_both_hashes_or_the_file():
    with pytest.raises(IntegrityError, match=r"sha256 is [0-9a-f]{64}, expected 0{64}") as caught:
        locate_weights(_with_weights(sha256="0" * 64), REGISTRY)
    assert "pip install --force-reinstall zoo-starter" in caught.value.hint
    with pytest.raises(IntegrityError, match=r"none\.safetensors is missing"):
        locate_weights(_with_weights(resource="weights/none.safetensors"), REGISTRY)


def test_a_pinned_recipe_takes_the_same_commit_again(tmp_path: Path):
    hub, folder = open_hub(str(tmp_path / "hub")), tmp_path / "files"
    folder.mkdir()
    shas = []
    for seed in (1, 2):
        save_file({"w": torch.full((3,), float(seed))}, folder / "model.safetensors")
        shas.append(hub.push(folder, "timm/net", message="m").revision)
    spec = dataclasses.replace(CNN.spec, weights=Weights(repo="timm/net"))
    entry = dataclasses.replace(CNN, spec=spec)
    newest = locate_weights(entry, REGISTRY, hub=str(tmp_path / "hub"))
    assert newest.source["revision"] == shas[1]
    pinned = {"kind": "hub", "repo": "timm/net", "revision": shas[0]}
    assert locate_weights(entry, REGISTRY, pinned=pinned, hub=str(tmp_path / "hub")).source["revision"] == shas[0]
    elsewhere = {**pinned, "repo": "evil/net"}  # a recipe cannot say whose weights are taken
    assert locate_weights(entry, REGISTRY, pinned=elsewhere, hub=str(tmp_path / "hub")).source["repo"] == "timm/net"
    version = next((tmp_path / "hub" / "timm" / "net" / "versions").glob("*2/files/model.safetensors"))
    flip(version)
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        locate_weights(entry, REGISTRY, hub=str(tmp_path / "hub"))


def test_unreachable_weights_offer_what_is_installed(tmp_path: Path):
    entry = dataclasses.replace(CNN, spec=dataclasses.replace(CNN.spec, weights=Weights(repo="timm/net")))
    with pytest.raises(HubError, match="weights of starter/cnn") as caught:
        locate_weights(entry, REGISTRY, hub=str(tmp_path / "nowhere"))
    assert "starter/cnn" in caught.value.hint
    assert "starter/cnn" in installed_backbones(REGISTRY)


def test_weights_that_are_not_finite_are_refused():
    model = nn.Linear(2, 2)
    nn.init.constant_(model.bias, float("inf"))
    with pytest.raises(IntegrityError, match="'bias'"):
        check_finite(model, "x")


# ------------------------------------------------------------------ text


class Words(nn.Module):
    """A bag of words: the mean of the embeddings of those that its vocabulary, an asset, knows."""

    load_report = None

    def __init__(self, vocabulary: list[str], width: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(len(vocabulary) + 1, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.embedding(x).mean(dim=1)

    def transform(self, input: TextInput, train: bool):
        def numbers(sample: str, generator: torch.Generator) -> torch.Tensor:
            found = [self.vocabulary.index(w) + 1 if w in self.vocabulary else 0 for w in sample.lower().split()]
            return torch.tensor((found + [0] * input.max_tokens)[: input.max_tokens])

        return numbers

    def collate(self, samples: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(samples)

    def assets(self) -> dict[str, bytes]:
        return {"vocab.txt": "\n".join(self.vocabulary).encode()}

    def export(self, classifier, labels, input) -> Exported:
        return Exported({"kind": "words"}, dict(self.state_dict()))


def build_words(spec, options, *, input, features, weights, device, dtype, assets) -> Words:
    """The factory of :class:`Words`, as a plugin has it."""
    model = Words(assets["vocab.txt"].read_text().split("\n"), spec.features[features])
    if weights is not None:
        model.load_state_dict(load_file(weights))
    return model


def test_a_backbone_of_text_gets_its_assets_from_the_hub_and_from_the_bundle(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fake_words", types.SimpleNamespace(build=build_words))
    hub, folder = str(tmp_path / "hub"), tmp_path / "files"
    folder.mkdir()
    torch.manual_seed(0)
    origin = Words(["black", "quartz,", "vow."], 6)
    save_file(origin.state_dict(), folder / "model.safetensors")
    (folder / "vocab.txt").write_bytes(origin.assets()["vocab.txt"])
    open_hub(hub).push(folder, "lab/words", message="m")
    weights = Weights(repo="lab/words", assets=("vocab.txt",))
    spec = BackboneSpec(
        name="words",
        summary="s",
        factory="fake_words:build",
        features={"pooled": 6},
        weights=weights,
        input=TextInput(max_tokens=8),
    )
    specs = {
        "backbone": (spec,),
        "head": (REGISTRY.head("linear").spec,),
        "strategy": (REGISTRY.strategy("full").spec,),
    }
    registry = Registry([Plugin(namespace="fake", distribution="zoo-fake", version="1", specs=specs)])
    made = assemble_model(registry, backbone="words", head="linear", columns=LABEL, hub=hub)
    assert torch.equal(made.model.backbone.embedding.weight, origin.embedding.weight)
    parts = {"backbone": Component(name="fake/words"), "head": Component(name="fake/linear")}
    recipe = Recipe(**parts, phases=(PhaseRecipe(strategies=(Component(name="fake/full"),), epochs=1),))
    write_bundle(tmp_path / "bundle", made, recipe, Findings(), registry)
    assert (tmp_path / "bundle" / "vocab.txt").is_file()
    assert verify_bundle(tmp_path / "bundle", registry) == 0
    (tmp_path / "bundle" / "vocab.txt").unlink()
    write_manifest(tmp_path / "bundle")
    with pytest.raises(IntegrityError, match=r"vocab\.txt"):
        verify_bundle(tmp_path / "bundle", registry)


# ------------------------------------------------------------------ the model


def batch(count: int = 4) -> Batch:
    images = torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return Batch(views={"train": images}, targets={"label": torch.arange(count) % 3}, ids=list(range(count)))


def test_a_pass_is_computed_once_a_step():
    model, given = cnn(pretrained=False).model, batch()
    assert model(given) is model(given)
    with torch.no_grad():
        assert model(given) is not given.passes[(id(model), "train", model.training, True)]


def test_missing_labels_count_nowhere_and_weights_do():
    model = cnn(pretrained=False).model.eval()
    logits = {"label": torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]])}
    whole = model.loss({"label": logits["label"][:2]}, {"label": torch.tensor([0, 0])})
    missing = model.loss(logits, {"label": torch.tensor([0, 0, -1])})
    torch.testing.assert_close(missing, whole)
    weighed = model.loss(logits, {"label": torch.tensor([0, 0, -1])}, torch.tensor([2.0, 0.0, 5.0]))
    first = nn.functional.cross_entropy(logits["label"][:1], torch.tensor([0]))
    torch.testing.assert_close(weighed, first)


def test_mixed_targets_are_weighed_per_sample():
    model, given = cnn(pretrained=False).model.eval(), batch()
    ones, other = given.targets, {"label": (given.targets["label"] + 1) % 3}
    share = torch.tensor([1.0, 0.5, 0.25, 0.0])
    outputs = model(given).outputs
    expected = model.loss(outputs, ones, share) + model.loss(outputs, other, 1 - share)
    given.mix = [(ones, share), (other, 1 - share)]
    torch.testing.assert_close(model.supervised(given), expected)


def test_freezing_a_block_stops_its_parameters_and_its_statistics():
    model = cnn().model.train()
    names = list(model.blocks())
    model.freeze(names[:2])
    prefixes = [p for name in names[:2] for p in model.blocks()[name]]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.supervised(batch()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == under(name, prefixes), name
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed, "the statistics of the other blocks moved"
    assert not any(under(name, prefixes) for name in changed)
    model.train(False).train(True)
    assert not any(m.training for n, m in model.named_modules() if n and under(n, prefixes))
    model.thaw()
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.backbone.modules())


def test_blocks_cover_every_parameter_of_the_backbone():
    model = cnn(pretrained=False).model
    prefixes = [p for block in model.blocks().values() for p in block]
    assert all(under(name, prefixes) for name, _ in model.named_parameters() if name.startswith("backbone."))


def test_a_folded_head_answers_as_the_head_it_came_from():
    model = cnn(pretrained=False).model.eval()
    fold = model.head.fold()
    folded = TransferModel(model.backbone, FoldedHead(model.head, fold, LABEL[0]), LABEL)
    given = batch()
    torch.testing.assert_close(folded(batch()).outputs["label"], model(given).outputs["label"])
    torch.testing.assert_close(folded.supervised(batch()), model.supervised(given))
    assert set(folded.head.state_dict()) == {"weight", "bias"}
    assert isinstance(folded.head.fold(), Classifier)


def test_a_tap_gives_what_a_module_returned():
    model = cnn(pretrained=False).model.eval()
    name = next(n for n, m in model.backbone.named_modules() if isinstance(m, nn.Conv2d))
    model.taps = (name,)
    found = model(batch()).taps[name]
    assert found.shape[0] == 4
    assert not any(m._forward_hooks for m in model.backbone.modules())
