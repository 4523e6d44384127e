"""The starter backbones: their specs, their weights, and the drawings they were pretrained on."""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import unicodedata
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from zoo_starter import zoo_backbones
from zoo_starter.networks import NETWORKS

PRETRAIN = Path(__file__).resolve().parents[1] / "plugins" / "zoo-starter" / "pretrain"
SPECS = {spec.name: spec for spec in zoo_backbones()}


@pytest.fixture
def pretrain(monkeypatch):
    """Modules of the pretraining script, which is no package: ``pretrain("glyphs")``."""
    monkeypatch.syspath_prepend(str(PRETRAIN))
    before = set(sys.modules)
    yield lambda name: __import__(name)
    for name in set(sys.modules) - before:
        if str(PRETRAIN) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def build(spec, *, features="pooled", pretrained=True):
    from zoo_registry.references import load_reference

    weights = Path(str(files("zoo_starter") / spec.weights.resource)) if pretrained else None
    factory = load_reference(spec.factory, owner=spec.name)
    return factory(
        spec, spec.options(), input=spec.input, features=features, weights=weights, device="cpu", dtype=None
    ).eval()


def test_importing_and_listing_needs_no_torch():
    code = "import sys, zoo_starter; zoo_starter.zoo_backbones(); print({'torch', 'timm'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_weights_are_what_the_specs_say_and_small():
    total = 0
    for spec in SPECS.values():
        data = (files("zoo_starter") / spec.weights.resource).read_bytes()
        assert hashlib.sha256(data).hexdigest() == spec.weights.sha256
        assert len(data) == spec.weights.size
        total += len(data)
    assert total < 5_000_000


@pytest.mark.parametrize("name", sorted(SPECS))
def test_the_weights_file_is_float32_and_holds_the_backbone_alone(name):
    with safe_open(str(files("zoo_starter") / SPECS[name].weights.resource), framework="pt") as file:
        assert not [key for key in file.keys() if key.startswith(("fc.", "head."))]
        assert {file.get_tensor(k).dtype for k in file.keys()} <= {torch.float32, torch.int64}
        assert file.metadata()["format"] == "pt"


@pytest.mark.parametrize("name", sorted(SPECS))
def test_every_tensor_is_loaded_and_features_have_the_declared_width(name):
    spec = SPECS[name]
    backbone = build(spec)
    report = backbone.load_report
    assert report.loaded == len(backbone.state_dict())
    assert (report.initialised, report.dropped, report.resized) == ((), (), ())
    assert sum(p.numel() for p in backbone.parameters()) == spec.parameters
    x = torch.randn(2, 3, *spec.input.size)
    with torch.no_grad():
        for kind, width in spec.features.items():
            features = build(spec, features=kind)(x)
            if kind == "pyramid":
                assert tuple(level.shape[1] for level in features) == width
            else:
                assert features.shape[1 if kind == "map" else -1] == width


@pytest.mark.parametrize("name", sorted(SPECS))
def test_plain_timm_rebuilds_the_same_function_from_the_exported_form(name, tmp_path):
    import timm
    from safetensors.torch import save_file

    spec = SPECS[name]
    backbone = build(spec)
    exported = backbone.export(None, ("a", "b"), spec.input)
    (tmp_path / "config.json").write_text(json.dumps(dict(exported.config)))
    save_file(dict(exported.tensors), tmp_path / "model.safetensors")
    plain = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(2, 3, *spec.input.size)
    with torch.no_grad():
        assert torch.equal(plain(x), backbone(x))


@pytest.mark.slow
def test_pretrained_features_tell_drawn_signs_apart_better_than_random_ones(pretrain):
    """One labelled picture a sign, nearest neighbour by cosine: the weights in the wheel really are trained."""
    drawings = pretrain("drawings")
    data = drawings.Drawings(pretrain("glyphs").glyph_set(limit=30), seed=9)
    pictures, labels = data.batch(0, 400)
    keep = labels < 30
    pictures, labels = pictures[keep], labels[keep]

    def score(backbone):
        with torch.no_grad():
            features = torch.nn.functional.normalize(backbone(pictures), dim=1)
        near = (features @ features.T).fill_diagonal_(-1).argmax(1)
        return float((labels[near] == labels).float().mean())

    for spec in SPECS.values():
        torch.manual_seed(0)
        assert score(build(spec)) > score(build(spec, pretrained=False)) + 0.2


@pytest.mark.slow
def test_no_sign_is_a_digit_or_decomposes_into_one(pretrain):
    signs = pretrain("glyphs").glyph_set().signs
    listed = set("".join(group for group, _ in pretrain("exclusions").DIGIT_LIKE.values()))
    assert len(signs) > 800
    for sign in signs:
        parts = {sign, *unicodedata.normalize("NFKD", sign)}
        assert not parts & (listed | set("0123456789"))
        assert all(unicodedata.numeric(part, None) is None for part in parts)
        assert "DIGIT" not in unicodedata.name(sign, "")


@pytest.mark.parametrize(
    "sign", ["0", "7", "٣", "Ⅷ", "②", "½", "²", "O", "o", "l", "S", "Z", "B", "З", "Ч", "б", "q", "Ó"]
)
def test_digits_and_their_look_alikes_are_excluded(pretrain, sign):
    assert pretrain("exclusions").is_excluded(sign)


def test_drawn_shapes_are_compared_with_digits(pretrain):
    glyphs = pretrain("glyphs")
    fonts = glyphs.load_fonts()
    digits = glyphs.digit_templates(fonts)
    for digit in "0123456789":
        assert glyphs.looks_like_a_digit(glyphs.draw(digit, fonts[2][0]), digits), digit
    for sign in "AWM#":
        assert not glyphs.looks_like_a_digit(glyphs.draw(sign, fonts[0][0]), digits), sign


def test_batches_depend_on_seed_and_step_alone(pretrain):
    glyphs = pretrain("glyphs").glyph_set(limit=20)
    drawings = pretrain("drawings")
    first, again, other = (drawings.Drawings(glyphs, seed) for seed in (3, 3, 4))
    pictures, labels = first.batch(5, 64)
    first.batch(6, 64)
    repeated, same = again.batch(5, 64)
    assert torch.equal(pictures, repeated)
    assert torch.equal(labels, same)
    assert not torch.equal(pictures, other.batch(5, 64)[0])
    assert not torch.equal(pictures, again.batch(6, 64)[0])
    assert pictures.shape == (64, 3, 64, 64)
    assert float(pictures.abs().max()) <= 1
    assert int(labels.max()) < first.classes


def test_the_networks_of_the_script_are_those_of_the_package(pretrain):
    module = pretrain("pretrain")
    for name, network in NETWORKS.items():
        model = module.build(name, classes=0)
        assert sum(p.numel() for p in model.parameters()) == network.parameters


@pytest.mark.parametrize("name", sorted(SPECS))
def test_facts_are_the_means_of_the_committed_benchmark(name):
    results = json.loads((PRETRAIN.parents[2] / "benchmarks" / "results" / "starter.json").read_text())["results"][name]
    for labels, rows in results.items():
        assert SPECS[name].fact(f"digits_{labels}_labels") == round(statistics.mean(rows["linear"]), 3)
        assert statistics.mean(rows["linear"]) > statistics.mean(rows["random_linear"])
        assert sum(a > b for a, b in zip(rows["linear_full"], rows["scratch4"])) >= 4
