"""The strategies that say what learns and at which rates, on the real model and through the real loop."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import Halt, make_run, phase, same_bits, train_here
from torch import nn
from zoo_registry import Column, Registry, Strategy, UsageError
from zoo_registry.options import parse_options

from zoo.assembly.assemble import assemble_model
from zoo.assembly.model import TransferModel
from zoo.training.checkpoint import clone_state
from zoo.training.groups import phase_groups

REGISTRY = Registry()


def part(name: str, **options):
    """The spec and the strategy."""
    entry = REGISTRY.strategy(f"basics/{name}")
    return entry.spec, entry.factory()(entry.spec, parse_options(entry.spec.options, options, where=name))


def whole(backbone: str) -> TransferModel:
    """A model of three classes with random weights."""
    columns = (Column(name="label", classes=("a", "b", "c")),)
    made = assemble_model(REGISTRY, backbone=backbone, head="basics/linear", columns=columns, pretrained=False)
    made.model.train()
    return made.model


@pytest.fixture(scope="module")
def cnn() -> TransferModel:
    return whole("starter/cnn")


@pytest.fixture(scope="module")
def vit() -> TransferModel:
    return whole("starter/vit")


def learning(model: TransferModel) -> set[str]:
    """Names of the backbone's parameters that learn."""
    return {name for name, p in model.named_parameters() if p.requires_grad and name.startswith("backbone.")}


def prepared(model: TransferModel, name: str, **options):
    """The strategy, after its ``prepare`` on the thawed model."""
    model.thaw()
    strategy = part(name, **options)[1]
    strategy.prepare(model, None)
    return strategy


def rates(model: TransferModel, **options) -> dict[str, float]:
    """Parameter name -> its rate, of a full rate of 1."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = part("llrd", **options)[1].parameter_groups(model, 1.0)
    found = [(names[id(p)], group["rate"]) for group in groups for p in group["params"]]
    assert len(found) == len(dict(found))
    return dict(found)


# ------------------------------------------------------------------ llrd


def test_llrd_on_a_cnn_is_a_power_of_decay_by_block(cnn):
    found = rates(cnn, decay=0.5)
    assert found.keys() == {name for name, _ in cnn.named_parameters()}
    wanted = {"conv1": 0.5**5, "bn1": 0.5**5, **{f"layer{k}": 0.5 ** (5 - k) for k in (1, 2, 3, 4)}}
    for name, rate in found.items():
        assert rate == (1.0 if name.startswith("head.") else wanted[name.split(".")[2]]), name


def test_llrd_on_a_vit_gives_the_rates_of_timms_own_layer_decay(vit):
    from timm.optim import param_groups_layer_decay

    found = rates(vit)
    model = vit.backbone.model
    model.head = nn.Linear(96, 3)  # timm counts the classifier as the last layer
    try:
        names = {id(p): f"backbone.model.{name}" for name, p in model.named_parameters()}
        groups = param_groups_layer_decay(model, layer_decay=0.75)
        theirs = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    finally:
        model.head = nn.Identity()
    wanted = {name: scale for name, scale in theirs.items() if ".head." not in name}
    assert len(set(wanted.values())) == 6
    assert {name: rate for name, rate in found.items() if name.startswith("backbone.")} == pytest.approx(wanted)


def test_llrd_has_a_floor(cnn):
    found = rates(cnn, decay=0.1, floor=0.05)
    assert sorted(set(found.values())) == pytest.approx([0.05, 0.1, 1.0])


class Inject(Strategy):
    """A low-rank change of one matrix, as LoRA makes it: the factors lie under the block, the matrix is frozen."""

    def prepare(self, model, run):
        model.freeze()
        layer = model.backbone.stem[0]
        layer.register_parameter("down", nn.Parameter(torch.randn(2, 27)))
        layer.register_parameter("up", nn.Parameter(torch.zeros(6, 2)))

        def change(m, inputs, output):
            return output + nn.functional.conv2d(inputs[0], (m.up @ m.down).view_as(m.weight), None, 2, 1)

        self.hook = layer.register_forward_hook(change)

    def finish(self, model, run):
        layer = model.backbone.stem[0]
        self.hook.remove()
        layer.weight.data += (layer.up @ layer.down).view_as(layer.weight)
        del layer.up, layer.down


def test_llrd_gives_injected_parameters_the_rate_of_their_block():
    run = make_run([phase(Inject(), part("llrd", decay=0.5), rate=0.01)])
    injected = Inject()
    injected.prepare(run.model, run)
    groups = phase_groups(run.model, run.phases[0])
    rate = {id(p): group["rate"] for group in groups for p in group["params"]}
    assert rate[id(run.model.backbone.stem[0].up)] == rate[id(run.model.backbone.stem[0].weight)] == 0.0025
    assert len(rate) == len(list(run.model.parameters()))


def test_llrd_goes_with_a_strategy_that_injects_through_the_loop():
    run = make_run([phase(Inject(), part("llrd"))])
    before = clone_state(run.model.state_dict())
    train_here(run)
    changed = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"backbone.stem.0.weight", *(name for name in before if name.startswith("head."))}


def test_llrd_moves_the_first_block_less():
    moves = {}
    for decay in (1.0, 0.1):
        run = make_run([phase(part("llrd", decay=decay), decay=0.0)], backbone="plain")
        before = clone_state(run.model.state_dict())
        train_here(run)
        now = run.model.state_dict()
        moves[decay] = {
            n: float((now[n] - before[n]).abs().max()) for n in ("backbone.stem.0.weight", "head.layers.label.weight")
        }
    assert moves[0.1]["backbone.stem.0.weight"] < 0.05 * moves[1.0]["backbone.stem.0.weight"]
    assert moves[0.1]["head.layers.label.weight"] > 0.5 * moves[1.0]["head.layers.label.weight"]


def test_llrd_says_its_slowest_rate(cnn, vit):
    assert "the first block at 0.237 of it" in part("llrd")[1].explain(cnn, None)[0]
    assert "the first block at 0.237 of it" in part("llrd")[1].explain(vit, None)[0]  # 5 counted blocks each


# ------------------------------------------------------------------ gradual


class Clock:
    """A run as far as ``gradual`` looks at it."""

    def __init__(self, epochs: float, epoch: int = 0) -> None:
        self.steps_per_epoch, self.total_steps, self.epoch = 10, round(epochs * 10), epoch


def schedule(epochs: float, blocks: int = 5, **options) -> list[int]:
    """Blocks that learn in each epoch."""
    strategy, length = part("gradual", **options)[1], -(-round(epochs * 10) // 10)
    return [strategy.learning(epoch, length, blocks) for epoch in range(length)]


@pytest.mark.parametrize(("epochs", "options", "wanted"), [
    (10, {}, [0, 1, 2, 3, 4, 5, 5, 5, 5, 5]),
    (20, {}, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] + [5] * 10),
    (10, {"until": 1.0}, [0, 0, 1, 1, 2, 2, 3, 3, 4, 5]),
    (10, {"until": 0.0}, [0] + [5] * 9),
    (4, {}, [0, 2, 5, 5]),
    (3, {}, [0, 3, 5]),
    (2, {}, [0, 5]),
    (2, {"until": 1.0}, [0, 5]),
    (1.1, {}, [0, 5]),
    (7, {"every": 1}, [0, 1, 2, 3, 4, 5, 5]),
    (7, {"every": 3}, [0, 0, 0, 1, 1, 1, 2]),
])  # fmt: skip
def test_gradual_thaws_block_after_block(epochs, options, wanted):
    assert schedule(epochs, **options) == wanted


@pytest.mark.parametrize("blocks", [1, 2, 5, 17, 60])
def test_gradual_begins_with_the_head_and_ends_with_everything(blocks):
    for epochs in range(2, 40):
        for until in (0.0, 0.3, 0.5, 1.0):
            found = schedule(epochs, blocks, until=until)
            assert found[0] == 0
            assert found[-1] == blocks
            assert found == sorted(found)


def test_gradual_freezes_all_but_the_last_blocks_and_their_norms(vit):
    vit.thaw()
    strategy = part("gradual", every=1)[1]
    strategy.prepare(vit, Clock(6))
    assert learning(vit) == set()
    expected = [[], ["fc_norm", "blocks.3"], ["fc_norm", "blocks.3", "blocks.2"]]
    for epoch in (2, 1, 0, 2):  # in any order: a function of the epoch alone
        strategy.begin_epoch(vit, Clock(6, epoch))
        found = {block for block, prefixes in vit.blocks().items() for n in learning(vit) if n.startswith(prefixes)}
        assert found == set(expected[epoch])
    strategy.begin_epoch(vit, Clock(6, 5))
    assert len(learning(vit)) == len(list(vit.backbone.parameters()))


def test_gradual_puts_statistics_to_rest_with_their_block(cnn):
    cnn.thaw()
    strategy = part("gradual", every=1)[1]
    strategy.prepare(cnn, Clock(4))
    strategy.begin_epoch(cnn, Clock(4, 1))
    follow = {n.split(".")[2] for n, m in cnn.named_modules() if isinstance(m, nn.BatchNorm2d) and m.training}
    assert follow == {"layer4"}


@pytest.mark.parametrize(("epochs", "options", "words"), [
    (1, {}, "over after 10 of the 10 steps of its first epoch"),
    (0.4, {}, "over after 4 of the 10 steps of its first epoch"),
    (3, {"every": 3}, "3 epochs long, with every=3"),
])  # fmt: skip
def test_gradual_refuses_a_phase_in_which_no_block_would_learn(cnn, epochs, options, words):
    with pytest.raises(UsageError, match=words) as caught:
        part("gradual", **options)[1].prepare(cnn, Clock(epochs))
    assert "linear" in caught.value.hint


def test_gradual_says_when_which_block_begins(cnn):
    lines = part("gradual", every=2)[1].explain(cnn, Clock(6))
    assert lines == (
        "from epoch 1: the head alone", "from epoch 3: layer4", "from epoch 5: layer3", "never: layer2, layer1, stem",
    )  # fmt: skip
    assert part("gradual")[1].explain(cnn, Clock(2))[1] == "from epoch 2: layer4, layer3, layer2, layer1, stem"


def gradual_run():
    return make_run([phase(part("gradual", until=1.0), part("llrd"), epochs=4)], evaluate_every=2)


def test_gradual_trains_each_block_from_its_epoch_on():
    seen = {}

    class Watch(Strategy):
        role = "penalty"

        def after_step(self, model, run):
            if run.epoch not in seen:
                seen[run.epoch] = {n.split(".")[1] for n, p in model.named_parameters() if p.grad is not None}

    train_here(make_run([phase(part("gradual", until=1.0), Watch(), epochs=4)]))
    assert seen == {0: {"layers"}, 1: {"layers"}, 2: {"layers", "body"}, 3: {"layers", "body", "stem"}}


def test_gradual_killed_at_any_step_goes_on_to_the_same_bits(tmp_path):
    reference = gradual_run()
    wanted = train_here(reference)
    steps = reference.total_steps
    assert reference.steps_per_epoch * 4 == steps
    for halt in (2, reference.steps_per_epoch, 2 * reference.steps_per_epoch + 1, steps - 1):
        folder = tmp_path / str(halt)
        folder.mkdir()
        with pytest.raises(Halt):
            train_here(gradual_run(), folder, halt=halt)
        resumed = gradual_run()
        assert train_here(resumed, folder) == wanted
        assert same_bits(resumed.model.state_dict(), reference.model.state_dict())


# ------------------------------------------------------------------ bitfit and norm


def test_bitfit_lets_exactly_the_bias_vectors_learn(cnn, vit):
    for model in (cnn, vit):
        strategy = prepared(model, "bitfit")
        wanted = {n for n, _ in model.named_parameters() if n.startswith("backbone.") and n.endswith(".bias")}
        assert learning(model) == wanted
        assert all(p.requires_grad for p in model.head.parameters())
        count = sum(p.numel() for n, p in model.named_parameters() if n in wanted)
        assert strategy.explain(model, None) == (
            f"{len(wanted)} bias vectors of the backbone learn, {count:,} numbers",
        )


@pytest.mark.parametrize(("name", "ndim", "is_bias"), [
    ("backbone.a.bias", 1, True),
    ("backbone.attn.q_bias", 1, True),
    ("backbone.attn.in_proj_bias", 1, True),
    ("backbone.attn.relative_position_bias_table", 2, False),
    ("backbone.attn.bias", 2, False),
    ("backbone.bias.weight", 1, False),
    ("backbone.ls1.gamma", 1, False),
])  # fmt: skip
def test_what_a_bias_term_is(name, ndim, is_bias):
    from zoo_basics.strategies import bitfit

    assert bitfit.is_bias(name, ndim) is is_bias


def norm_names(model: TransferModel) -> set[str]:
    """By the names that timm gives norms in these two networks."""
    parts = {n: n.split(".")[-2] for n, _ in model.named_parameters() if n.startswith("backbone.")}
    found = {n for n, part in parts.items() if "norm" in part or part.startswith("bn")}
    shortcuts = {
        n
        for n, p in model.named_parameters()
        if ("downsample.2." in n or n.endswith(("conv1.1.weight", "conv1.1.bias", "conv1.4.weight", "conv1.4.bias")))
    }
    return found | shortcuts


@pytest.mark.parametrize("statistics", [True, False])
def test_norm_lets_exactly_the_normalisation_layers_learn(cnn, vit, statistics):
    for model in (cnn, vit):
        prepared(model, "norm", statistics=statistics)
        assert learning(model) == norm_names(model) != set()
        follow = [m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert follow == [statistics] * len(follow)
        model.eval().train()
        assert [m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == follow


def test_norm_says_what_the_statistics_do(cnn, vit):
    assert prepared(cnn, "norm").explain(cnn, None)[1] == "BatchNorm statistics follow the data"
    assert prepared(cnn, "norm", statistics=False).explain(cnn, None)[1] == "BatchNorm statistics rest"
    assert len(prepared(vit, "norm").explain(vit, None)) == 1


class RmsNorm(nn.Module):
    """A norm of another library."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


class NormedMlp(nn.Module):
    """No norm, in spite of its name: it has a matrix."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))


@pytest.mark.parametrize(("module", "wanted"), [
    (nn.BatchNorm1d(3), True), (nn.LayerNorm(3), True), (nn.GroupNorm(1, 3), True), (nn.RMSNorm(3), True),
    (nn.InstanceNorm2d(3, affine=True), True), (RmsNorm(), True), (NormedMlp(), False), (nn.Linear(3, 3), False),
])  # fmt: skip
def test_what_a_normalisation_layer_is(module, wanted):
    from zoo_basics.strategies import norm

    assert norm.is_norm(module) is wanted


@pytest.mark.parametrize(("name", "options", "still"), [
    ("bitfit", {}, {"running_mean", "running_var"}),
    ("norm", {"statistics": False}, {"running_mean", "running_var"}),
    ("norm", {"statistics": True}, set()),
])  # fmt: skip
def test_the_loop_proves_what_bitfit_and_norm_freeze(name, options, still):
    run = make_run([phase(part(name, **options), decay=0.0)])
    before = clone_state(run.model.state_dict())
    rows = train_here(run)
    now = run.model.state_dict()
    moved = {n for n in before if not torch.equal(before[n], now[n]) and n.startswith("backbone.")}
    vectors = {n for n in moved if n.endswith(("weight", "bias"))}
    norms = {f"backbone.{b}.1.{p}" for b in ("stem", "body") for p in ("weight", "bias")}
    biases = {f"backbone.{b}.{k}.bias" for b in ("stem", "body") for k in (0, 1)}
    assert vectors <= (biases if name == "bitfit" else norms)
    assert {f"backbone.{b}.1.bias" for b in ("stem", "body")} <= vectors
    statistics = {n.rpartition(".")[2] for n in moved} & {"running_mean", "running_var"}
    assert statistics == {"running_mean", "running_var"} - still
    assert rows[-1]["frozen_tensors"] > 0


def test_bitfit_and_norm_refuse_a_backbone_that_has_none():
    run = make_run([phase(part("bitfit"))], backbone="plain")
    with pytest.raises(UsageError, match="no normalisation layer with weights"):
        part("norm")[1].prepare(run.model, run)
    for module in run.model.backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = None
    with pytest.raises(UsageError, match="has no bias terms"):
        part("bitfit")[1].prepare(run.model, run)
