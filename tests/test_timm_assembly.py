"""Pretrained timm models made the quick way: the same model, bit by bit, and the ordinary way where that cannot be."""

from __future__ import annotations

import dataclasses
import logging
import threading

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from zoo_registry import BackboneSpec, Weights
from zoo_timm import making
from zoo_timm.backbone import build
from zoo_timm.catalogue import read_catalogue
from zoo_timm.loading import borrowed, fitting, put
from zoo_timm.options import TimmOptions
from zoo_timm.recipe import Recipe, make_recipe
from zoo_timm.skipping import SkippedInit

from zoo.assembly.memory import is_mapped, own_tensors

SPECS = {spec.name: spec for spec in read_catalogue()}
SMALL = {  # architecture -> constructor keywords that keep it small
    "test_resnet": {},
    "test_vit": {},
    "test_vit2": {},
    "test_convnext": {},
    "test_efficientnet": {},
    "test_nfnet": {},
    "test_byobnet": {},
    "test_mambaout": {},
    "test_coatnet": {},
    "test_vit_relpos": {},
    "mobilenetv3_small_050": {},
    "regnetx_002": {},
    "lcnet_035": {},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 4, 8)},
    "swinv2_tiny_window8_256": {"embed_dim": 24, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 4, 8)},
    "beit_base_patch16_224": {"embed_dim": 48, "depth": 2, "num_heads": 2},
    "eva02_tiny_patch14_224": {"embed_dim": 48, "depth": 2, "num_heads": 2},
    "vit_small_patch16_dinov3": {"embed_dim": 48, "depth": 2, "num_heads": 2},
    "maxvit_rmlp_pico_rw_256": {"embed_dim": (32, 32, 32, 64), "depths": (1, 1, 1, 1), "stem_width": (16, 16)},
    "levit_128s": {"depth": (1, 1, 1)},
    "tiny_vit_5m_224": {"embed_dims": (24, 24, 32, 64), "num_heads": (1, 1, 2, 2), "depths": (1, 1, 1, 1)},
    "efficientformerv2_s0": {"depths": (1, 1, 2, 2), "embed_dims": (16, 16, 32, 48)},
    "convit_tiny": {"depth": 2, "local_up_to_layer": 1},
    "efficientvit_m0": {},
}
"""Among them all those that have buffers which are in no weights file: swin, beit, eva02, dinov3, maxvit, levit..."""

LARGE = (
    "resnet50",
    "vit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
    "beit_base_patch16_224",
    "eva02_small_patch14_224",
    "maxvit_tiny_rw_224",
    "vit_small_patch16_dinov3",
    "levit_256",
    "tiny_vit_21m_224",
    "efficientformerv2_l",
    "convnext_tiny",
    "regnety_040",
    "mobilenetv3_large_100",
    "inception_v3",
    "coat_tiny",
    "gcvit_xxtiny",
    "xcit_nano_12_p8_224",
    "crossvit_tiny_240",
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def spec_of(architecture: str, **kwargs) -> BackboneSpec:
    """A spec as another package would write it, from the catalogue's row of the architecture."""
    row = next(s for s in SPECS.values() if s.extra["architecture"] == architecture)
    extra = {"architecture": architecture, "kwargs": kwargs}
    return dataclasses.replace(row, extra=extra, weights=Weights(package="p", resource="w.safetensors"))


def recipe_of(architecture: str, **kwargs) -> Recipe:
    spec = spec_of(architecture, **kwargs)
    return make_recipe(spec, TimmOptions(), spec.input)


def write_file(recipe: Recipe, path):
    """Weights that no constructor would make, so that a tensor which was not loaded is found."""
    draw = torch.Generator().manual_seed(5)
    state = recipe.create(10 if recipe.config.get("num_classes") else 0).state_dict()
    save_file(
        {
            n: torch.rand(t.shape, generator=draw) * 0.1 + 0.01 if t.is_floating_point() else t.contiguous()
            for n, t in state.items()
        },
        path,
    )
    return path


def assert_same_tensors(model: nn.Module, other: nn.Module) -> None:
    for kind in ("named_parameters", "named_buffers"):
        found, wanted = (dict(getattr(m, kind)(remove_duplicate=False)) for m in (model, other))
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert found[name].dtype == tensor.dtype, name
            assert found[name].requires_grad == tensor.requires_grad, name
            assert torch.equal(found[name].isnan(), tensor.isnan()), name
            assert torch.equal(found[name].nan_to_num(), tensor.nan_to_num()), name


def check_equal_to_timm(architecture: str, kwargs, folder) -> bool:
    """Whether the quick way was taken; either way the model is timm's, and so are its outputs."""
    recipe = recipe_of(architecture, **kwargs)
    path = write_file(recipe, folder / "w.safetensors")
    state = torch.random.get_rng_state()
    found, reason = making._mapped(recipe, path, 0, None)
    assert torch.equal(torch.random.get_rng_state(), state), "the quick way uses no random numbers up"
    model, _ = making.load(recipe, path)
    plain = recipe.create(0, weights=path)
    assert_same_tensors(model, plain)
    own_tensors(model)
    x = torch.randn(2, 3, *recipe.image.size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for m in (model, plain):
            m.eval()
        assert torch.equal(model(x).nan_to_num(), plain(x).nan_to_num())
    assert (found is None) == bool(reason)
    return found is not None


@pytest.mark.parametrize("architecture", SMALL)
def test_small_models_equal_those_of_timm_and_are_made_the_quick_way(architecture, tmp_path):
    assert check_equal_to_timm(architecture, SMALL[architecture], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", LARGE)
def test_large_models_equal_those_of_timm(architecture, tmp_path):
    quick = check_equal_to_timm(architecture, {}, tmp_path)
    assert quick == (architecture != "coat_tiny"), "it alone has parameters under two names"


def test_the_table_has_models_with_buffers_that_no_file_holds(tmp_path):
    recipe = recipe_of("swin_tiny_patch4_window7_224", **SMALL["swin_tiny_patch4_window7_224"])
    model, _ = making.load(recipe, write_file(recipe, tmp_path / "w.safetensors"))
    left = set(dict(model.named_buffers())) - set(model.state_dict())
    assert any(name.endswith("relative_position_index") for name in left)


def test_the_quick_way_maps_the_file_and_writes_never_reach_it(tmp_path):
    recipe = recipe_of("test_resnet")
    path = write_file(recipe, tmp_path / "w.safetensors")
    before = path.read_bytes()
    model, _ = making.load(recipe, path)
    assert all(is_mapped(t) and borrowed(t) for t in model.state_dict().values())
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    assert path.read_bytes() == before
    assert_same_tensors(making.load(recipe, path)[0], recipe.create(0, weights=path))


def test_a_file_that_is_replaced_or_removed_leaves_a_mapped_model_alone(tmp_path):
    recipe = recipe_of("test_resnet")
    path = write_file(recipe, tmp_path / "w.safetensors")
    wanted = recipe.create(0, weights=path)
    model, _ = making.load(recipe, path)
    other = tmp_path / "other"
    other.write_bytes(b"\0" * path.stat().st_size)
    other.replace(path)
    path.unlink()
    assert_same_tensors(model, wanted)


def test_a_model_that_owns_its_tensors_survives_a_file_cut_short(tmp_path):
    recipe = recipe_of("test_resnet")
    path = write_file(recipe, tmp_path / "w.safetensors")
    wanted = recipe.create(0, weights=path)
    model, _ = making.load(recipe, path)
    assert own_tensors(model) == len(model.state_dict())
    assert own_tensors(model) == 0
    path.open("r+b").truncate(0)  # read through a mapping, this would end the process
    assert_same_tensors(model, wanted)


def test_half_precision_files_make_float32_models(tmp_path):
    recipe = recipe_of("test_vit")
    path = write_file(recipe, tmp_path / "w.safetensors")
    save_file({n: t.half() if t.is_floating_point() else t for n, t in load_file(path).items()}, path)
    found, _ = making._mapped(recipe, path, 0, None)
    assert found is not None
    assert_same_tensors(found[0], recipe.create(0, weights=path))


def test_what_does_not_come_from_the_file_is_really_drawn(tmp_path, caplog):
    recipe = recipe_of("test_vit")
    path = write_file(recipe, tmp_path / "w.safetensors")
    with caplog.at_level(logging.DEBUG, "zoo_timm"):
        torch.manual_seed(7)
        model, taken = making.load(recipe, path, classes=5)  # a head of another size: timm leaves it random
    assert "head.weight does not come from the file" in caplog.text
    assert "head.weight" not in taken
    torch.manual_seed(7)
    assert_same_tensors(model, recipe.create(5, weights=path))
    assert float(model.get_submodule("head").weight.detach().std()) > 0


@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's own, of the interpolation of swin's tables
def test_other_channels_and_another_size_take_the_quick_way_too(tmp_path):
    for architecture, size in (("test_resnet", 96), ("test_vit", 96), ("swin_tiny_patch4_window7_224", 112)):
        spec = spec_of(architecture, **SMALL[architecture])
        path = write_file(make_recipe(spec, TimmOptions(), spec.input), tmp_path / "w.safetensors")
        image = dataclasses.replace(spec.input, size=(size, size), channels=1, mean=(0.5,), std=(0.5,))
        recipe = make_recipe(dataclasses.replace(spec, capabilities=frozenset({"image_size", "in_chans"})),
                             TimmOptions(), image)  # fmt: skip
        found, reason = making._mapped(recipe, path, 0, None)
        assert found is not None, reason
        assert_same_tensors(found[0], recipe.create(0, weights=path))


def test_the_backbone_reports_as_before(tmp_path):
    spec = spec_of("test_vit")
    path = write_file(make_recipe(spec, TimmOptions(), spec.input), tmp_path / "w.safetensors")
    image = dataclasses.replace(spec.input, size=(96, 96))
    made = build(spec, TimmOptions(), input=image, features="pooled", weights=path, device="cpu", dtype=None)
    assert made.load_report is not None
    assert made.load_report.resized == ("model.pos_embed",)
    assert made.load_report.initialised == ()
    assert set(made.load_report.dropped) == {"head.weight", "head.bias"}


class Odd(nn.Module):
    """Constructors that the quick way must see through."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        if how == "copies":
            self.register_buffer("extra", self.layer.weight.detach().clone() * 2, persistent=False)
        elif how == "draws":
            self.register_buffer("extra", torch.empty(3).normal_(), persistent=False)
        elif how == "asks":
            self.flag = bool(self.layer.weight.sum() > 0)
        elif how == "dropout":
            self.register_buffer("extra", nn.functional.dropout(torch.ones(9)), persistent=False)
        elif how == "attribute":
            self.extra = [self.layer.weight.data + 1]
        elif how == "data":
            self.layer.weight.data.normal_()
            self.layer.bias.data[:2] = 3
        elif how == "truncated":
            nn.init.trunc_normal_(self.layer.weight, std=0.02)
        elif how == "keyed":
            self.register_buffer("extra", torch.randn(3, generator=torch.Generator().manual_seed(1)), persistent=False)
        elif how == "counted":
            self.register_buffer("extra", torch.arange(12.0).reshape(3, 4).cumsum(0).sub_(1), persistent=False)
            self.extra.mul_(2)


@pytest.mark.parametrize("how", ["copies", "draws", "asks", "dropout", "attribute"])
def test_values_that_hang_on_initial_ones_are_noticed(how):
    state = torch.random.get_rng_state()
    skipped = SkippedInit()
    with skipped:
        model = Odd(how)
        model.load_state_dict({"layer.weight": torch.ones(4, 4), "layer.bias": torch.ones(4)}, assign=True)
    assert skipped.read or skipped.found_in(model) is not None
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("how", ["data", "truncated", "keyed", "counted"])
def test_plain_arithmetic_is_done_and_all_the_rest_comes_from_the_file(how):
    skipped = SkippedInit()
    with skipped:
        model = Odd(how)
        assert skipped.found_in(model) == "layer.weight"
        model.load_state_dict({"layer.weight": torch.ones(4, 4), "layer.bias": torch.ones(4)}, assign=True)
    assert not skipped.read
    assert skipped.found_in(model) is None
    if hasattr(model, "extra"):
        assert torch.equal(model.extra, Odd(how).extra)


def test_other_threads_draw_as_ever():
    with SkippedInit():
        seen: list[float] = []
        thread = threading.Thread(target=lambda: seen.append(float(nn.Linear(64, 64).weight.detach().std())))
        thread.start()
        thread.join()
    assert seen[0] > 0.01


def test_a_tensor_that_stands_twice_in_a_file_is_not_shared_by_the_model():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    one, bias = torch.ones(2, 2), torch.zeros(2)
    state = {"0.weight": one, "1.weight": one.t(), "0.bias": bias.double(), "1.bias": bias}
    model.load_state_dict(fitting(model, state), assign=True)
    with torch.no_grad():
        model[0].weight.add_(1)
    assert torch.equal(model[1].weight, torch.ones(2, 2))
    assert model[0].bias.dtype == torch.float32


class Renamed(nn.Linear):
    """A layer with its own way of loading."""

    def _load_from_state_dict(self, state_dict, prefix, *args):
        state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}kernel")
        super()._load_from_state_dict(state_dict, prefix, *args)


def test_tensors_are_put_in_as_torch_assigns_them_or_not_at_all():
    def layers():
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2, bias=False))
        model[2].weight.requires_grad_(False)
        model[1].register_buffer("kept", torch.arange(3), persistent=False)
        return model

    state = {n: torch.full_like(t, 3) for n, t in layers().state_dict().items()}
    model, plain = layers(), layers()
    assert put(model, state)
    plain.load_state_dict(state, assign=True)
    assert_same_tensors(model, plain)
    assert all(t.data_ptr() == state[n].data_ptr() for n, t in model.state_dict().items())
    assert [type(p) for p in model.parameters()] == [nn.Parameter] * 5
    model = layers()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    assert not put(model, {n: t for n, t in state.items() if n != "1.running_var"})
    assert not put(model, {**state, "more": torch.zeros(1)})
    assert not put(model, {**state, "0.bias": torch.zeros(5)})
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert not put(Renamed(2, 2), {"kernel": torch.ones(2, 2), "bias": torch.ones(2)})
    hooked = layers()
    hooked.register_load_state_dict_pre_hook(lambda *_: None)
    assert not put(hooked, state)


def test_timm_itself_is_as_it_was_after_a_failure(tmp_path):
    recipe = recipe_of("test_resnet")
    init, load = nn.init.kaiming_normal_, nn.Module.load_state_dict
    path = tmp_path / "w.safetensors"
    save_file({"conv1.0.weight": torch.zeros(1)}, path)
    with pytest.raises(Exception, match="does not fit"):
        making.load(recipe, path)
    assert nn.init.kaiming_normal_ is init
    assert nn.Module.load_state_dict is load
    assert float(timm.create_model("test_resnet").conv1[0].weight.detach().std()) > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_tensors_are_the_files(tmp_path):
    spec = spec_of("test_vit")
    path = write_file(make_recipe(spec, TimmOptions(), spec.input), tmp_path / "w.safetensors")
    made = build(spec, TimmOptions(), input=spec.input, features="pooled", weights=path, device="cuda", dtype=None)
    state = load_file(path)
    assert all(t.is_cuda and torch.equal(t.cpu(), state[n]) for n, t in made.model.state_dict().items())
