"""Adapters through the application's own loop: plain before and after, resumed, composed, published, applied."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from types import SimpleNamespace

import peft
import pytest
import timm
import torch
from peft_models import METHODS, PREFIX, SIZE, VIT, features, images, plain_model, registry, strategy, train
from safetensors.torch import save_file
from strategy_table import Case, Shades, prepare, train_attempt
from tiny_runs import Halt, same_bits
from torch import nn
from zoo_registry import Delta, IntegrityError, UsageError, ZooError
from zoo_registry.strategy import overrides

from zoo.planning import Request, make_plan


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch):
    """Nothing here depends on what a power failure leaves."""
    monkeypatch.setattr("os.fsync", lambda _: None)


RUN = SimpleNamespace(total_steps=10, step=0)


def state_of(model):
    """Everything about the modules but the values of their tensors."""
    named = dict(model.named_modules())
    return (
        list(model.state_dict()),
        {name: type(module) for name, module in named.items()},
        {name: sorted(set(vars(module)) - {"training"}) for name, module in named.items()},
        {name: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for name, m in named.items()},
    )


@pytest.mark.parametrize("method", METHODS)
def test_finish_leaves_the_modules_and_names_there_were_and_the_same_function(method):
    model = plain_model()
    before, modules = state_of(model), dict(model.named_modules())
    trained = train(method, model=model)
    injected = features(model)
    assert state_of(model) != before
    trained.strategy.finish(model, trained.run)
    assert state_of(model) == before
    assert all(modules[name] is module for name, module in model.named_modules())
    torch.testing.assert_close(features(model), injected, rtol=1e-4, atol=1e-4)
    fresh = plain_model(seed=5)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(features(fresh), features(model))


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_changes_nothing_before_it_learns(method):
    model = plain_model()
    before = features(model)
    made = strategy(method)
    made.prepare(model, RUN)
    torch.testing.assert_close(features(model), before, rtol=1e-5, atol=1e-5)
    made.finish(model, RUN)
    with pytest.raises(ZooError, match="no adapter"):
        made.finish(model, RUN)


@pytest.mark.parametrize("method", METHODS)
def test_only_adapter_and_head_learn_and_all_of_them_do(method):
    model = plain_model()
    trained = train(method, steps=4, model=model)
    for name, parameter in model.named_parameters():
        injected = ".lora_" in name or ".ia3_" in name
        assert parameter.requires_grad == (injected or name.startswith("head.")), name
        if not injected and "ranknum" not in name and not name.startswith("head."):
            assert torch.equal(parameter, trained.base[name.replace(".base_layer", "")])
    again = train(method, steps=4)
    assert same_bits(model.state_dict(), again.model.state_dict())


def test_dropout_acts_in_training_though_the_backbone_rests():
    for method in ("lora", "dora", "adalora"):
        model = train(method, dropout=0.5).model
        model.train()
        with torch.no_grad():
            one, two = (model.backbone(images()) for _ in range(2))
        assert not torch.allclose(one, two, atol=1e-4), method
        resting = [
            n for n, m in model.backbone.named_modules() if isinstance(m, nn.LayerNorm | nn.Conv2d) and m.training
        ]
        assert resting == []


BACKBONES = ("test_convnext", "test_mambaout", "test_maxvit", "test_vit", "test_vit3", "test_vit_relpos")


@pytest.mark.parametrize("name", BACKBONES)
def test_blocks_are_the_same_with_an_adapter_in_them(name):
    model = plain_model(f"timm/{name}")

    def owners(blocks, parameter):
        return [b for b, prefixes in blocks.items() if any(f"{parameter}.".startswith(f"{p}.") for p in prefixes)]

    plain, before = model.blocks(), state_of(model)
    owned = {n: owners(plain, n) for n, _ in model.named_parameters() if n.startswith("backbone.")}
    made = strategy("lora")
    made.prepare(model, RUN)
    blocks = model.blocks()
    assert list(blocks) == list(plain)
    for parameter, _ in model.backbone.named_parameters(prefix="backbone"):
        found = owners(blocks, parameter)
        assert len(found) == 1
        base = (
            parameter.replace(".base_layer", "")
            if ".lora_" not in parameter
            else parameter.partition(".lora_")[0] + ".weight"
        )
        assert found == owned[base]
    made.finish(model, RUN)
    assert state_of(model) == before


def layers_of(method="lora", model=None, **options):
    model = plain_model() if model is None else model
    made = strategy(method, **options)
    made.prepare(model, RUN)
    return sorted({n.partition(".lora_")[0].partition(".ia3_")[0] for n in made.delta(model).tensors})


def test_blocks_and_layers_narrow_what_is_adapted():
    start = "base_model.model.blocks"
    kinds = ("attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2")
    assert len(layers_of()) == 24
    assert layers_of(blocks=1) == [f"{start}.5.{kind}" for kind in kinds]
    assert layers_of(blocks=2, layers=("qkv",)) == [f"{start}.{n}.attn.qkv" for n in (4, 5)]
    assert layers_of(layers=("blocks.1.mlp.*",)) == [f"{start}.1.mlp.fc1", f"{start}.1.mlp.fc2"]
    assert layers_of("ia3", blocks=1) == [f"{start}.5.attn.qkv", f"{start}.5.mlp.fc2"]
    assert layers_of("ia3", blocks=1, layers=("attn.proj",)) == [f"{start}.5.attn.proj"]


def test_what_cannot_be_narrowed_so_is_refused_and_the_model_left_plain():
    model = plain_model()
    before = state_of(model)
    with pytest.raises(UsageError, match="blocks=7, but 6 blocks"):
        strategy("lora", blocks=7).prepare(model, RUN)
    with pytest.raises(UsageError, match="no linear layer") as caught:
        strategy("dora", layers=("dense",)).prepare(model, RUN)
    assert "qkv, proj, fc1, fc2" in caught.value.hint
    assert state_of(model) == before


def test_adalora_refuses_ranks_and_schedules_that_cannot_be():
    with pytest.raises(UsageError, match="initial_rank=4 must be above rank=4"):
        strategy("adalora", initial_rank=4)
    with pytest.raises(UsageError, match="leave no steps"):
        strategy("adalora", start=0.5, settle=0.5)


class Odd(nn.Module):
    """Layers that end in each other's names, one that stands twice, one whose weight is computed."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.inner.fc = nn.Linear(4, 4)
        self.twice = self.again = nn.Linear(4, 4)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.tied = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)
        self.other.weight = self.tied.weight

    def linear_layers(self):
        return [n for n, m in self.named_modules() if isinstance(m, nn.Linear)]

    def forward(self, x):
        for layer in (
            self.fc,
            self.inner[0],
            self.inner[1],
            self.inner.fc,
            self.twice,
            self.again,
            self.normed,
            self.tied,
            self.other,
        ):
            x = layer(x)
        return x


class OddModel(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = Odd()

    def freeze(self):
        self.requires_grad_(False)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [((), ["fc", "inner.0", "inner.1", "inner.fc"]), (("fc",), ["fc", "inner.fc"]), (("inner.0",), ["inner.0"])],
)
def test_exactly_the_layers_that_can_be_merged_are_adapted(method, pattern, expected):
    model = OddModel()
    assert [n.removeprefix("base_model.model.") for n in layers_of(method, model, layers=pattern)] == expected


@pytest.mark.parametrize("method", METHODS)
def test_the_one_of_two_layers_is_adapted_whose_name_ends_the_other_s(method):
    model = OddModel()
    model.backbone.linear_layers = lambda: ["fc"]
    assert layers_of(method, model) == ["base_model.model.fc"]


def request(expression, *settings):
    data = {"train": Shades((14, 8, 4), 0), "val": Shades((3, 3, 3), 1)}
    return Request(
        data=data, backbone="timm/test_efficientnet", strategy=expression, settings=settings, pretrained=False, seed=5
    )  # fmt: skip


def test_a_backbone_without_linear_layers_is_refused_in_one_line():
    with pytest.raises(UsageError, match="peft/lora needs linear_layers, which backbone timm/test_efficientnet"):
        make_plan(request("lora:1"), registry())


def parts(expression):
    return tuple(part for phase in expression.split(",") for part in phase.split("+"))


def run_case(expression, folder=None, halt=None):
    names = tuple(registry().strategy(part.partition(":")[0]).name for part in parts(expression))
    attempt = prepare(Case(expression, "vit", names))
    train_attempt(attempt, folder, halt)
    return attempt


EXPRESSIONS = ("linear:1,lora:2", "dora+llrd+l2-sp:2", "adalora+l2-sp+ema:2", "ia3+ema:2", "lora+wise-ft:2")
MORE = ("lora:1,lora:1,dora:1", "ia3:1,adalora:2", "lora+llrd:2", "lora+ema:2", "adalora+wise-ft:2")


@pytest.mark.parametrize("expression", [*EXPRESSIONS, *(pytest.param(e, marks=pytest.mark.slow) for e in MORE)])
def test_it_goes_with_others_and_the_model_ends_plain(expression):
    attempt = run_case(expression)
    model = attempt.run.model
    assert list(model.state_dict()) == list(attempt.run.base)
    assert not any(isinstance(m, peft.tuners.tuners_utils.BaseTunerLayer) for m in model.modules())
    moved = [n for n, t in model.state_dict().items() if not torch.equal(t, attempt.run.base[n])]
    assert {n for n in moved if n.startswith(PREFIX)} >= {f"{PREFIX}blocks.{k}.attn.qkv.weight" for k in range(6)}
    linear = ("qkv.weight", "qkv.bias", "proj.weight", "fc1.weight", "fc2.weight")
    assert all(n.startswith("head.") or n.endswith(linear) for n in moved)
    phases = [row for row in attempt.rows if row["event"] == "phase"]
    assert all(row["frozen_tensors"] > 50 for row in phases)


def test_layer_wise_rates_reach_the_adapters():
    from zoo.training.preparing import prepare_phase

    attempt = prepare(Case("lora+llrd:1", "vit", ("peft/lora", "basics/llrd")))
    groups = prepare_phase(attempt.run, attempt.run.phases[0]).stepper.groups
    rates = {id(p): group["rate"] for group in groups for p in group["params"]}
    named = dict(attempt.run.model.named_parameters())
    found = [rates[id(named[f"{PREFIX}blocks.{k}.mlp.fc1.lora_B.default.weight"])] for k in range(6)]
    assert found == sorted(found)
    assert found[0] < found[-1]


LATER = (("linear:1,adalora:2", 4), ("adalora:3", 6), ("dora:2", 2))
RESUMES = [("adalora:3", 4), *(pytest.param(*case, marks=pytest.mark.slow) for case in LATER)]


@pytest.mark.parametrize(("expression", "halt"), RESUMES)
def test_a_resumed_run_ends_at_the_same_bits(expression, halt, tmp_path):
    whole = run_case(expression)
    with pytest.raises(Halt):
        run_case(expression, tmp_path, halt)
    again = run_case(expression, tmp_path)
    assert same_bits(whole.run.model.state_dict(), again.run.model.state_dict())
    assert same_bits(whole.run.deltas[-1][1].tensors, again.run.deltas[-1][1].tensors)
    assert whole.run.deltas[-1][1].config == again.run.deltas[-1][1].config


def test_adalora_refuses_a_state_that_is_not_its_own():
    trained = train("adalora", steps=6)
    state = trained.strategy.state_dict()
    assert len(state) == 24
    assert all(key.startswith("ranks.blocks.") for key in state), "once ranks are final, importances are of no use"
    with pytest.raises(ValueError, match="no state 'other'"):
        trained.strategy.load_state_dict({"other": torch.ones(1)})
    with pytest.raises(ZooError, match="no adapter"):
        strategy("adalora").load_state_dict(state)


def published(delta, folder):
    """The two files that peft reads."""
    folder.mkdir()
    save_file(dict(delta.tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(dict(delta.config)))
    return folder


def timm_model(base):
    network = timm.create_model(VIT.removeprefix("timm/"), num_classes=0, img_size=SIZE)
    network.load_state_dict({n.removeprefix(PREFIX): t for n, t in base.items() if n.startswith(PREFIX)})
    return network


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")  # the library's own, of its own AdaLoRA
@pytest.mark.parametrize("method", METHODS)
def test_plain_peft_loads_the_adapter_on_the_plain_timm_model(method, tmp_path):
    trained = train(method, steps=10)
    delta = trained.strategy.delta(trained.model)
    assert overrides(trained.strategy, "delta")
    assert delta.method == method
    trained.strategy.finish(trained.model, trained.run)
    plain = timm_model(trained.base)
    wrapped = peft.PeftModel.from_pretrained(plain, published(delta, tmp_path / "adapter"))
    torch.testing.assert_close(features(wrapped), features(trained.model), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(features(timm_model(trained.base)), features(trained.model), rtol=1e-2, atol=1e-2)
    assert sum(t.numel() for t in delta.tensors.values()) < 0.25 * sum(
        p.numel() for p in timm_model(trained.base).parameters()
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_delta_is_what_peft_itself_would_write(method, tmp_path):
    trained = train(method, steps=10)
    delta = trained.strategy.delta(trained.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained.strategy.adapter.wrapped.save_pretrained(tmp_path)
    from safetensors.torch import load_file

    assert same_bits(load_file(tmp_path / "adapter_model.safetensors"), dict(sorted(delta.tensors.items())))
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    unordered = {n: sorted(v) if isinstance(v, list) else v for n, v in written.items()}
    assert unordered == delta.config
    assert json.loads(json.dumps(delta.config)) == delta.config


@pytest.mark.parametrize("method", METHODS)
def test_a_delta_applied_to_the_base_gives_the_merged_weights(method):
    trained = train(method, steps=10)
    delta = trained.strategy.delta(trained.model)
    trained.strategy.finish(trained.model, trained.run)
    plain = plain_model()
    plain.load_state_dict(trained.base)
    before = state_of(plain)
    strategy(method).apply(plain, delta)
    assert state_of(plain) == before
    for name, tensor in trained.model.backbone.state_dict(prefix="backbone.").items():
        torch.testing.assert_close(plain.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_adalora_publishes_averaged_weights_whose_pruned_ranks_are_not_zero():
    trained = train("adalora", steps=10)
    with torch.no_grad():
        for name, parameter in trained.model.named_parameters():
            if "lora_E" in name:
                parameter.add_(0.01)
    delta = trained.strategy.delta(trained.model)
    trained.strategy.finish(trained.model, trained.run)
    plain = plain_model()
    plain.load_state_dict(trained.base)
    strategy("adalora").apply(plain, delta)
    torch.testing.assert_close(features(plain), features(trained.model), rtol=1e-4, atol=1e-4)


def spoilt(delta, tensors=None, drop=(), **config):
    kept = {n: t for n, t in {**delta.tensors, **(tensors or {})}.items() if n not in drop}
    return Delta(method=delta.method, tensors=kept, config={**delta.config, **config})


def test_a_spoilt_delta_is_refused_and_the_model_left_as_it_was():
    trained = train("lora", steps=2)
    delta = trained.strategy.delta(trained.model)
    first = "base_model.model.blocks.0.attn.qkv.lora_A.weight"
    wrong = {
        "'ia3'": Delta(method="ia3", tensors=delta.tensors, config=delta.config),
        "is of 'IA3'": spoilt(delta, peft_type="IA3"),
        "use_dora": spoilt(delta, use_dora=True),
        "not a number": spoilt(delta, lora_alpha="much"),
        "r=9": spoilt(delta, r=9),
        "megatron_core": spoilt(delta, megatron_core="os"),
        "modules_to_save": spoilt(delta, modules_to_save=["norm"]),
        "init_lora_weights": spoilt(delta, init_lora_weights="pissa"),
        "rank_pattern": spoilt(delta, rank_pattern={"qkv": 2}),
        "layer_replication": spoilt(delta, layer_replication=[[0, 2]]),
        "no tensor of an adapter": spoilt(delta, {"base_model.model.norm.weight": torch.zeros(64)}),
        "no linear layer": spoilt(delta, {"base_model.model.blocks.99.fc.lora_A.weight": torch.zeros(8, 64)}),
        "do not fit": spoilt(delta, {first: torch.zeros(4, 3)}),
        "fit its configuration: base_model.model.blocks.0.attn.qkv.lora_B": spoilt(
            delta, drop=(first.replace("lora_A", "lora_B"),)
        ),
        "is empty": spoilt(delta, drop=tuple(delta.tensors)),
    }
    model = plain_model()
    before, weights = state_of(model), {n: t.clone() for n, t in model.state_dict().items()}
    for reason, bad in wrong.items():
        with pytest.raises((IntegrityError, UsageError, ZooError)) as caught:
            strategy("lora").apply(model, bad)
        assert reason in str(caught.value)
        assert state_of(model) == before
        assert same_bits(model.state_dict(), weights), reason


def test_patterns_of_a_published_configuration_are_never_run():
    trained = train("lora", steps=2)
    delta = trained.strategy.delta(trained.model)
    endless = "(a+)+" * 20 + "$"
    model = plain_model()
    strategy("lora").apply(model, spoilt(delta, target_modules=endless))
    trained.strategy.finish(trained.model, trained.run)
    torch.testing.assert_close(features(model), features(trained.model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_autocast_trains_and_merges(method):
    model = plain_model()
    with torch.autocast("cpu", torch.bfloat16):
        trained = train(method, model=model)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    exact = features(model)
    with torch.autocast("cpu", torch.bfloat16):
        rough = features(model)
    trained.strategy.finish(model, trained.run)
    torch.testing.assert_close(features(model), exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rough.float(), exact, rtol=0.1, atol=0.1 * float(exact.abs().max()))


def test_no_warning_of_the_library_reaches_a_user():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in METHODS:
            trained = train(method, steps=3)
            delta = trained.strategy.delta(trained.model)
            trained.strategy.finish(trained.model, trained.run)
            plain = plain_model()
            strategy(method).apply(plain, delta)


def test_importing_the_plugin_imports_neither_torch_nor_peft():
    code = "import sys, zoo_peft.specs; print(sorted({'torch', 'peft', 'transformers', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_plan_says_what_is_adapted():
    model = plain_model()
    made = strategy("adalora")
    made.prepare(model, RUN)
    assert made.explain(model, RUN) == (
        "adapts 24 linear layers (qkv, proj, fc1, fc2) with 32,400 parameters",
        "ranks shrink from 6 a layer to 4 on average, steps 1 to 7",
    )
