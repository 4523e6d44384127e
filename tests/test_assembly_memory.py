"""Where the weights of an assembled model lie, when they are copied, and how NaN and Inf are found in mapped files."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import nn
from zoo_registry import Column, IntegrityError, Registry

from zoo.assembly import finite
from zoo.assembly.assemble import assemble_model
from zoo.assembly.finite import check_finite, file_is_finite
from zoo.assembly.memory import is_mapped, own_tensors
from zoo.assembly.weights import locate_weights

REGISTRY = Registry()
LABEL = (Column(name="label", classes=("a", "b", "c")),)


def cnn(**options):
    return assemble_model(REGISTRY, backbone="starter/cnn", head="linear", columns=LABEL, **options)


def weights_of_cnn():
    return load_file(locate_weights(REGISTRY.backbone("starter/cnn"), REGISTRY).path)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache of the test's own, where every file counts as large."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(finite, "NOTED_FROM", 0)
    return tmp_path / "home"


def notes(home):
    return sorted(p.name for p in home.rglob("finite/*"))


def test_weights_of_a_package_stay_mapped_and_those_of_a_given_file_are_copied(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(weights_of_cnn(), path)
    mapped, given, asked, copied = (
        cnn(**options) for options in ({}, {"weights": path}, {"weights": path, "mapped": True}, {"mapped": False})
    )
    assert [any(map(is_mapped, m.model.parameters())) for m in (mapped, given, asked, copied)] == [1, 0, 1, 0]
    states = [m.model.state_dict() for m in (mapped, given, asked, copied)]
    assert all(torch.equal(state[name], states[0][name]) for state in states for name in states[0])
    path.open("r+b").truncate(0)
    assert all(torch.equal(t, states[0][n]) for n, t in given.model.state_dict().items())


def test_the_head_is_really_drawn_whatever_becomes_of_the_backbone():
    head, other = (cnn(seed=seed).model.head.state_dict() for seed in (3, 4))
    plain = cnn(seed=3, pretrained=False)
    assert all(torch.equal(t, plain.model.head.state_dict()[n]) for n, t in head.items())
    assert any(not torch.equal(t, other[n]) for n, t in head.items())
    assert not any(is_mapped(p) for p in plain.model.parameters())
    assert float(plain.model.backbone.model.conv1[0].weight.detach().std()) > 0.01


def test_owned_tensors_keep_their_ties_values_and_gradients_wishes(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.randn(4, 4), "b": torch.zeros(4)}, path)
    file = load_file(path)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight = model[1].weight = nn.Parameter(file["w"], requires_grad=False)
    model.register_buffer("mean", file["b"])
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert own_tensors(model) == 2
    assert model[0].weight is model[1].weight
    assert not model[0].weight.requires_grad
    assert not any(map(is_mapped, model.state_dict().values()))
    assert all(torch.equal(t, wanted[n]) for n, t in model.state_dict().items())


def test_only_memory_that_is_not_torchs_own_counts_as_mapped():
    assert not is_mapped(torch.zeros(3))
    assert not is_mapped(torch.zeros(3, 4).t()[1:])
    assert not is_mapped(torch.zeros(3).share_memory_())
    assert not is_mapped(torch.zeros(3, device="meta"))


def test_a_good_file_is_noted_and_a_changed_one_is_read_again(home, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(3), "n": torch.tensor([1])}, path)
    assert file_is_finite(path)
    assert len(notes(home)) == 1
    assert file_is_finite(path)
    assert len(notes(home)) == 1
    save_file({"a": torch.tensor([1.0, torch.nan, 1.0]), "n": torch.tensor([1])}, path)
    assert not file_is_finite(path)
    assert len(notes(home)) == 1, "what is not good is not noted"
    assert file_is_finite(path, "00ff") is False
    save_file({"a": torch.ones(3)}, path)
    assert file_is_finite(path, "00ff")
    assert "00ff" in notes(home)


def test_a_noted_file_is_not_read_again(home, tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(3)}, path)
    assert file_is_finite(path)
    monkeypatch.setattr(finite, "_pieces", None)
    assert file_is_finite(path)


def test_without_a_cache_to_write_to_the_file_is_read_each_time(home, tmp_path):
    home.write_text("in the way")
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(3)}, path)
    assert file_is_finite(path)
    assert file_is_finite(path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_bad_value_anywhere_is_found(dtype, bad, tmp_path, monkeypatch):
    monkeypatch.setattr(finite, "_PIECE", 64)  # many pieces
    good = torch.linspace(-1, 1, 1001).to(dtype)
    path = tmp_path / "w.safetensors"
    for place in (0, 500, 1000):
        values = good.clone()
        values[place] = bad
        save_file({"a": good, "b": values, "empty": torch.zeros(0)}, path)
        assert not file_is_finite(path)
    save_file({"a": good, "b": good.clone(), "whole": torch.arange(9), "yes": torch.tensor([True])}, path)
    assert file_is_finite(path)


def test_types_that_are_not_known_are_left_to_the_check_of_the_model(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(8).to(torch.float8_e4m3fn)}, path)
    assert not file_is_finite(path)


@pytest.mark.parametrize("name", ["conv1.0.weight", "layer1.0.bn1.running_var"])
def test_bad_weights_are_refused_at_assembly_by_name(name, tmp_path):
    state = weights_of_cnn()
    state[name] = state[name].clone()
    state[name].view(-1)[-1] = torch.inf
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    with pytest.raises(IntegrityError, match=f"{name}' has NaN or Inf"):
        cnn(weights=path, mapped=True)


def test_what_is_not_mapped_is_checked_whatever_was_noted(home, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"weight": torch.ones(2, 2)}, path)
    assert file_is_finite(path)
    layer = nn.Linear(2, 2)
    layer.load_state_dict(load_file(path), strict=False, assign=True)
    check_finite(layer, "x", file=path)
    with torch.no_grad():
        layer.bias[0] = torch.nan
    with pytest.raises(IntegrityError, match="'bias' has NaN"):
        check_finite(layer, "x", file=path)
