"""zoo-timm's factory on one small architecture of each kind, with drawn weights and no network."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from zoo_registry import BackboneSpec, Classifier, ImageInput, IntegrityError, PluginError, UsageError
from zoo_timm.backbone import PREFIX, build
from zoo_timm.catalogue import read_catalogue
from zoo_timm.features import reached_linears
from zoo_timm.options import TimmOptions

SPECS = {spec.name: spec for spec in read_catalogue()}

RESNET, VIT, CONVNEXT = "test_resnet.r160_in1k", "test_vit.r160_in1k", "test_convnext.r160_in1k"
EFFICIENTNET, BYOBNET, MAMBAOUT = "test_efficientnet.r160_in1k", "test_byobnet.r160_in1k", "test_mambaout"
MOBILENET = "mobilenetv3_small_050.lamb_in1k"  # pooled is wider than the map
CONVOLUTION = "resnetv2_18.ra4_e3600_r224_in1k"  # the classifier is a 1x1 convolution
DISTILLED = "deit_tiny_distilled_patch16_224.fb_in1k"  # two classifiers
UNMATCHED = "pit_ti_224.in1k"  # timm gives it no group_matcher
PLAIN = (RESNET, VIT, CONVNEXT, EFFICIENTNET, BYOBNET, MAMBAOUT, MOBILENET, CONVOLUTION)
EVERY = (*PLAIN, DISTILLED, UNMATCHED)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(spec: BackboneSpec, *, features="pooled", weights=None, image=None, options=None):
    module = build(
        spec,
        options or TimmOptions(),
        input=image or spec.input,
        features=features,
        weights=weights,
        device="cpu",
        dtype=None,
    )
    return module.eval()


def images(image: ImageInput, count=2) -> torch.Tensor:
    return torch.randn(count, image.channels, *image.size, generator=torch.Generator().manual_seed(1))


def classifier(width: int, classes=3) -> Classifier:
    draw = torch.Generator().manual_seed(2)
    return Classifier(torch.randn(classes, width, generator=draw), torch.randn(classes, generator=draw))


def native_file(name: str, folder: Path) -> tuple[Path, torch.nn.Module]:
    """A weights file as timm publishes it: the whole model with its own classifier."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    path = folder / "native.safetensors"
    save_file(model.state_dict(), path)
    return path, model


def publish(exported, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(exported.config))
    save_file(dict(exported.tensors), folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", EVERY)
def test_features_have_the_declared_kinds_and_widths(name):
    spec = SPECS[name]
    module = make(spec)
    x = images(spec.input)
    with torch.no_grad():
        for kind, width in spec.features.items():
            module.features = kind
            features = module(x)
            if kind == "pyramid":
                assert tuple(level.shape[1] for level in features) == width
                assert all(level.ndim == 4 for level in features)
            else:
                assert features.ndim == {"pooled": 2, "map": 4, "tokens": 3}[kind]
                assert features.shape[2 if kind == "tokens" else 1] == width
    assert sum(p.numel() for p in module.parameters()) == spec.parameters


def test_pooled_and_map_differ_where_timm_makes_them_differ():
    assert SPECS[MOBILENET].features["pooled"] == 1024
    assert SPECS[MOBILENET].features["map"] == 288


def test_a_map_of_tokens_keeps_their_places():
    spec = SPECS[VIT]
    module = make(spec, features="map")
    x = images(spec.input, 1)
    with torch.no_grad():
        grid = module(x)
        module.features = "tokens"
        tokens = module(x)
    rows, columns = grid.shape[2:]
    assert (rows, columns) == (10, 10)
    assert torch.equal(grid[0, :, 3, 7], tokens[0, 1 + 3 * columns + 7])


@pytest.mark.parametrize("name", EVERY)
def test_weights_of_timm_load_and_only_the_classifier_is_dropped(name, tmp_path):
    path, native = native_file(name, tmp_path)
    module = make(SPECS[name], weights=path)
    report = module.load_report
    heads = {"deit_tiny_distilled_patch16_224.fb_in1k": ("head", "head_dist"), UNMATCHED: ("head",)}
    names = heads.get(name) or (native.pretrained_cfg["classifier"],)
    assert set(report.dropped) == {f"{n}.{kind}" for n in names for kind in ("weight", "bias")}
    assert report.loaded == len(module.state_dict())
    assert report.resized == report.initialised == ()
    state = native.state_dict()
    assert all(torch.equal(t, state[n.removeprefix(PREFIX)]) for n, t in module.state_dict().items())


@pytest.mark.parametrize("name", PLAIN)
def test_the_native_head_gives_the_native_logits(name, tmp_path):
    path, native = native_file(name, tmp_path)
    module = make(SPECS[name], weights=path)
    x = images(SPECS[name].input)
    with torch.no_grad():
        assert torch.allclose(module.native_head()(module(x)), native(x), atol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_timm_loads_the_export_with_equal_logits(name, tmp_path):
    spec = SPECS[name]
    assert "classifier" in spec.capabilities
    torch.manual_seed(3)
    module = make(spec)
    head = classifier(spec.features["pooled"])
    exported = module.export(head, ("ant", "bee", "cow"), spec.input)
    folder = publish(exported, tmp_path / "bundle")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = images(spec.input)
    with torch.no_grad():
        assert torch.allclose(loaded(x), module(x) @ head.weight.T + head.bias, atol=1e-5)
    state = loaded.state_dict()
    assert set(state) == set(exported.tensors)
    assert all(torch.equal(state[n], t) for n, t in exported.tensors.items())
    assert torch.equal(state[exported.classifier[0]].flatten(1), head.weight)
    assert loaded.pretrained_cfg["label_names"] == ["ant", "bee", "cow"]
    assert exported.library == "timm"


@pytest.mark.parametrize("name", [CONVOLUTION, VIT])
def test_transformers_loads_the_export_with_equal_logits(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    spec = SPECS[name]
    image = dataclasses.replace(spec.input, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), crop_pct=1.0)
    module = make(spec)
    head = classifier(spec.features["pooled"])
    folder = publish(module.export(head, ("ant", "bee", "cow"), image), tmp_path / "bundle")
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    assert model.config.id2label == {0: "ant", 1: "bee", 2: "cow"}
    pixels = processor(Image.new("RGB", image.size, (255, 0, 0)), return_tensors="pt")["pixel_values"]
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([0.9 / 0.4, -0.2 / 0.5, -0.3 / 0.6], abs=1e-5)
    with torch.no_grad():
        assert torch.allclose(model(pixels).logits, module(pixels) @ head.weight.T + head.bias, atol=1e-5)


@pytest.mark.parametrize("name", [DISTILLED, RESNET])
def test_an_export_without_classifier_is_the_backbone_alone(name, tmp_path):
    spec = SPECS[name]
    module = make(spec)
    exported = module.export(None, ("ant", "bee"), spec.input)
    assert exported.classifier is None
    assert exported.config["num_classes"] == exported.config["pretrained_cfg"]["num_classes"] == 0
    loaded = timm.create_model(f"local-dir:{publish(exported, tmp_path / 'bundle')}", pretrained=True).eval()
    x = images(spec.input)
    with torch.no_grad():
        assert torch.equal(loaded(x), module(x))
    assert loaded.pretrained_cfg["label_names"] == ["ant", "bee"]


def test_a_classifier_that_is_not_one_linear_layer_is_refused():
    assert "classifier" not in SPECS[DISTILLED].capabilities
    with pytest.raises(UsageError, match="not one linear layer"):
        make(SPECS[DISTILLED]).export(classifier(192), ("a", "b", "c"), SPECS[DISTILLED].input)


def test_the_exported_config_holds_what_was_really_used():
    spec = SPECS[VIT]
    image = dataclasses.replace(spec.input, size=(192, 128), channels=1, mean=(0.5,), std=(0.25,), crop_mode="squash")
    config = make(spec, image=image).export(classifier(64), ("a", "b", "c"), image).config
    assert config["architecture"] == "test_vit"
    assert config["model_args"] == {"in_chans": 1, "img_size": [192, 128]}
    source = config["pretrained_cfg"]
    assert source["input_size"] == [1, 192, 128]
    assert (source["mean"], source["std"], source["crop_mode"]) == ([0.5], [0.25], "squash")
    assert source["license"] == spec.weights.license == "apache-2.0"


def test_the_export_of_another_size_and_channels_loads_everywhere(tmp_path):
    spec = SPECS[VIT]
    image = dataclasses.replace(spec.input, size=(192, 128), channels=5, mean=(0.5,) * 5, std=(0.5,) * 5)
    module = make(spec, image=image)
    folder = publish(module.export(classifier(64), ("a", "b", "c"), image), tmp_path / "bundle")
    x = images(image)
    again = make(spec, image=image, weights=folder / "model.safetensors")
    assert again.load_report.resized == again.load_report.initialised == ()
    assert set(again.load_report.dropped) == {"head.weight", "head.bias"}
    with torch.no_grad():
        assert torch.equal(again(x), module(x))
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        assert torch.allclose(loaded(x), again.native_head()(module(x)), atol=1e-5)


@pytest.mark.parametrize(("name", "resized"), [(VIT, "model.pos_embed"), (RESNET, None)])
def test_another_image_size_is_reported(name, resized, tmp_path):
    spec = SPECS[name]
    path, _ = native_file(name, tmp_path)
    image = dataclasses.replace(spec.input, size=(224, 192))
    module = make(spec, weights=path, image=image)
    assert module.load_report.resized == ((resized,) if resized else ())
    assert module.load_report.initialised == ()
    with torch.no_grad():
        assert module(images(image)).shape[1] == spec.features["pooled"]


def test_a_grid_of_as_many_tokens_is_reported_too(tmp_path):
    path, _ = native_file(VIT, tmp_path)
    image = dataclasses.replace(SPECS[VIT].input, size=(80, 320))
    assert make(SPECS[VIT], weights=path, image=image).load_report.resized == ("model.pos_embed",)


def test_renamed_tensors_are_found_by_their_content(tmp_path):
    path, native = native_file(VIT, tmp_path)
    save_file({f"model.{n}" if n != "norm.weight" else n: t for n, t in native.state_dict().items()}, path)
    with pytest.raises(IntegrityError, match="lacks 77 of 78 tensors"):
        make(SPECS[VIT], weights=path)
    hidden = timm.create_model("vit_tiny_patch16_224", embed_dim=48, depth=1, num_heads=3)
    state = {f"visual.trunk.{n}": t for n, t in hidden.state_dict().items()}  # what the filter of timm's ViT unwraps
    save_file({**state, "logit_scale": torch.ones(1)}, path)
    kwargs = {"embed_dim": 48, "depth": 1, "num_heads": 3}
    spec = dataclasses.replace(SPECS[VIT], extra={"architecture": "vit_tiny_patch16_224", "kwargs": kwargs})
    module = make(dataclasses.replace(spec, input=ImageInput()), weights=path)
    assert module.load_report.resized == module.load_report.initialised == ()
    assert torch.equal(module.model.norm.weight, hidden.norm.weight)
    assert module.load_report.loaded == len(module.state_dict())


def test_other_channels_are_reported(tmp_path):
    spec = SPECS[RESNET]
    path, native = native_file(RESNET, tmp_path)
    grey = dataclasses.replace(spec.input, channels=1, mean=(0.5,), std=(0.5,))
    module = make(spec, weights=path, image=grey)
    [stem] = module.load_report.resized
    weight = native.state_dict()[stem.removeprefix(PREFIX)]
    assert torch.allclose(module.state_dict()[stem], weight.sum(1, keepdim=True), atol=1e-6)


def test_an_architecture_of_fixed_size_says_so():
    spec = SPECS["mixer_s16_224"]
    assert spec.input.fixed_size
    with pytest.raises(UsageError, match="224x224 alone, not 256x256"):
        make(spec, image=dataclasses.replace(spec.input, size=(256, 256)))


@pytest.mark.parametrize("name", EVERY)
def test_blocks_cover_every_parameter_once_from_the_stem_on(name):
    module = make(SPECS[name])
    blocks = module.blocks()
    assert len(blocks) >= 3
    assert next(iter(blocks)) == "stem"
    names = [n for n, _ in module.named_parameters()]
    for parameter in names:
        owners = [b for b, prefixes in blocks.items() if any(f"{parameter}.".startswith(f"{p}.") for p in prefixes)]
        assert len(owners) == 1, parameter
    assert any(f"{names[0]}.".startswith(f"{p}.") for p in blocks["stem"])


def test_blocks_fall_back_to_the_order_of_registration():
    module = make(SPECS[UNMATCHED])
    assert not hasattr(module.model, "group_matcher")
    assert list(module.blocks())[:2] == ["stem", "transformers.0"]


def test_linear_layers_are_those_whose_forward_is_called():
    module = make(SPECS["eva02_tiny_patch14_224.mim_in22k"])
    every = {n for n, m in module.named_modules() if isinstance(m, torch.nn.Linear)}
    module.train()
    named = set(module.linear_layers())
    assert module.training
    assert all(m.training for m in module.modules())
    assert named < every
    assert "model.blocks.0.attn.proj" in named
    module = make(SPECS[VIT])
    module.requires_grad_(False)
    assert len(module.linear_layers()) == 6 * 4
    assert all(parameter.grad is None for parameter in module.parameters())


def test_linear_layers_whose_output_is_thrown_away_are_none_of_them():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.thrown, self.after = (torch.nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            self.after(self.thrown(self.first(x)))
            return self.first(x).relu_()

    net = Net()
    assert reached_linears(net, lambda: net(torch.zeros(2, 4))) == ["first"]
    with torch.no_grad():
        assert reached_linears(net, lambda: net(torch.zeros(2, 4))) == ["first"]
    assert all(not module._forward_hooks for module in net.modules())


def test_intermediates_are_maps_finest_first():
    module = make(SPECS[RESNET])
    with torch.no_grad():
        maps = module.intermediates(images(SPECS[RESNET].input))
    assert [m.shape[2] for m in maps] == [80, 40, 20, 10, 5]


@pytest.mark.parametrize("spoil", ["other", "short", "nothing", "name", "keys"])
def test_files_that_do_not_fit_are_refused(spoil, tmp_path):
    path, _ = native_file(RESNET if spoil != "other" else CONVNEXT, tmp_path)
    tensors = load_file(path)
    if spoil == "short":
        path.write_bytes(path.read_bytes()[:-100])
    elif spoil == "nothing":
        path.write_bytes(b"")
    elif spoil == "name":
        path = path.rename(tmp_path / "weights.bin")
    elif spoil == "keys":
        tensors.pop("layer3.0.conv1.weight")
        save_file(tensors, path)
    with pytest.raises(IntegrityError, match="weights file"):
        make(SPECS[RESNET], weights=path)


def test_a_tensor_of_another_shape_is_refused(tmp_path):
    path, _ = native_file(RESNET, tmp_path)
    tensors = load_file(path)
    tensors["layer3.0.conv1.weight"] = torch.zeros(1, 2, 3, 4)
    save_file(tensors, path)
    with pytest.raises(IntegrityError, match=r"does not fit 'test_resnet\.r160_in1k'"):
        make(SPECS[RESNET], weights=path)


def test_no_weights_means_no_native_head_and_no_report():
    module = make(SPECS[RESNET])
    assert module.load_report is None
    with pytest.raises(UsageError, match="without a pretrained classifier"):
        module.native_head()


@pytest.mark.parametrize("extra", [{"architecture": "resnet_of_tomorrow"}, {"architecture": "resnet18", "tag": "new"}])
def test_an_architecture_of_another_timm_names_the_cure(extra):
    spec = dataclasses.replace(SPECS[RESNET], extra=extra)
    with pytest.raises(PluginError, match=f"timm {timm.__version__} has no") as caught:
        make(spec)
    assert caught.value.hint == "pip install -U timm"


def test_another_package_brings_its_own_constructor_keywords(tmp_path):
    spec = BackboneSpec(
        name="tiny",
        summary="a small ViT of another package",
        factory="zoo_timm.backbone:build",
        options=TimmOptions,
        input=ImageInput(size=(32, 32)),
        features={"pooled": 48, "tokens": 48, "map": 48},
        capabilities=frozenset(("classifier", "image_size")),
        extra={
            "architecture": "vit_tiny_patch16_224",
            "kwargs": {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2},
        },
    )
    module = make(spec)
    exported = module.export(classifier(48), ("a", "b", "c"), spec.input)
    assert exported.config["model_args"] == {**spec.extra["kwargs"], "img_size": [32, 32]}
    folder = publish(exported, tmp_path / "bundle")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = images(spec.input)
    head = classifier(48)
    with torch.no_grad():
        assert torch.allclose(loaded(x), module(x) @ head.weight.T + head.bias, atol=1e-5)
    larger = dataclasses.replace(spec.input, size=(64, 64))
    assert make(spec, weights=folder / "model.safetensors", image=larger).load_report.resized == ("model.pos_embed",)


def test_timm_never_sees_a_namespace(monkeypatch):
    seen = []
    original = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **kw: seen.append(name) or original(name, **kw))
    make(SPECS[RESNET]).export(None, (), SPECS[RESNET].input)
    assert seen == ["test_resnet.r160_in1k"]


def test_options_reach_timm():
    module = make(SPECS[VIT], options=TimmOptions(drop_path_rate=0.4, drop_rate=0.25, grad_checkpointing=True))
    assert module.model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.4)
    assert module.model.head_drop.p == 0.25
    assert module.model.grad_checkpointing
    with pytest.raises(UsageError, match="timm cannot build"):
        make(SPECS["dpn48b"], options=TimmOptions(drop_path_rate=0.4))


def test_features_of_an_unknown_kind_are_refused():
    with pytest.raises(UsageError, match="has no tokens features"):
        make(SPECS[RESNET], features="tokens")


def test_export_does_not_share_memory_with_the_model():
    module = make(SPECS[RESNET])
    exported = module.export(None, (), SPECS[RESNET].input)
    name = next(n for n, _ in module.model.named_parameters())
    before = exported.tensors[name].clone()
    with torch.no_grad():
        module.get_parameter(PREFIX + name).add_(1)
    assert torch.equal(exported.tensors[name], before)
