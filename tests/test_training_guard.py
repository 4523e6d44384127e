"""Frozen means bit-identical, and what should learn must be able to."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import make_run, phase, same_bits, train_here
from torch import nn
from zoo_registry import ParameterGroup, Registry, Strategy, ZooError
from zoo_registry.options import parse_options

from zoo.recipe.recipe import Component, PhaseRecipe
from zoo.training.checkpoint import clone_state
from zoo.training.guard import tensor_hash
from zoo.training.run import Phase


class Freeze(Strategy):
    """Freezes the named blocks."""

    def __init__(self, *blocks: str) -> None:
        self.blocks = blocks or None

    def prepare(self, model, run):
        model.freeze(self.blocks)


def installed(name: str, **options) -> Phase:
    """A phase of a strategy of zoo-basics."""
    entry = Registry().strategy(f"basics/{name}")
    strategy = entry.factory()(entry.spec, parse_options(entry.spec.options, options, where="x"))
    recipe = PhaseRecipe(
        strategies=(Component(name=entry.name),), epochs=2, rate=0.05, decay=0.1, warmup=0.0, augment="light"
    )
    return Phase(recipe, [(entry.spec, strategy)])


@pytest.mark.parametrize(
    ("name", "options", "frozen"),
    [("linear", {}, ("backbone.",)), ("partial", {"blocks": 1}, ("backbone.stem.",)), ("full", {}, ())],
)
def test_frozen_tensors_keep_their_bits_batchnorm_too(name, options, frozen):
    run = make_run([installed(name, **options)])
    before = clone_state(run.model.state_dict())
    record = train_here(run)[-1]
    after = run.model.state_dict()
    still = {n for n in before if frozen and n.startswith(frozen)}
    assert all(tensor_hash(before[n]) == tensor_hash(after[n]) for n in still)
    moved = {n for n in before if tensor_hash(before[n]) != tensor_hash(after[n])}
    assert moved == set(before) - still
    assert record["frozen_tensors"] == len(still)
    if name == "partial":
        assert {"backbone.stem.1.running_mean", "backbone.stem.1.num_batches_tracked"} <= still
        assert {"backbone.body.1.running_mean", "backbone.body.1.running_var"} <= moved


@pytest.mark.parametrize("name", ["backbone.stem.0.weight", "backbone.stem.1.running_var"])
@pytest.mark.parametrize("when", ["before_step", "after_step", "begin_epoch"])
def test_a_strategy_that_writes_to_frozen_tensors_fails_the_run(name, when):
    class Wrecker(Strategy):
        role = "penalty"

    def wreck(self, model, run):
        model.state_dict()[name].view(-1)[0] += 1e-3

    setattr(Wrecker, when, wreck)
    with pytest.raises(ZooError, match=f"1 frozen tensors changed, the first is '{name}'") as caught:
        train_here(make_run([phase(Freeze("stem"), Wrecker())]))
    assert caught.value.exit_code == 1


def test_a_change_of_zero_to_minus_zero_is_a_change():
    class Sign(Strategy):
        role = "penalty"

        def prepare(self, model, run):
            self.zero = model.backbone.stem[1].running_mean
            self.zero[0] = 0.0

        def after_step(self, model, run):
            self.zero[0] = -0.0

    with pytest.raises(ZooError, match="running_mean"):
        train_here(make_run([phase(Freeze(), Sign())]))


def test_an_auxiliary_parameter_that_nobody_uses_fails_the_run():
    class Unused(Strategy):
        role = "penalty"

        def prepare(self, model, run):
            model.auxiliary["idle"] = nn.Linear(2, 2)

    with pytest.raises(ZooError, match=r"2 trainable tensors never got .*'auxiliary.idle.bias'"):
        train_here(make_run([phase(Unused())]))


def test_a_penalty_on_weights_does_not_hide_a_dead_parameter():
    """L2-SP gives every weight a gradient; what counts is whether the data reach it."""

    class Decay(Strategy):
        role = "penalty"

        def penalty(self, model, batches, run):
            return {"all": 1e-3 * sum(p.square().sum() for p in model.parameters())}

    class Adapter(Strategy):
        """Adds a parameter to the head that no pass uses."""

        def prepare(self, model, run):
            model.head.register_parameter("lost", nn.Parameter(torch.ones(3)))

        def finish(self, model, run):
            del model.head.lost

    with pytest.raises(ZooError, match=r"1 trainable tensors never got .*'head.lost'"):
        train_here(make_run([phase(Adapter(), Decay())]))
    rows = train_here(make_run([phase(Strategy(), Decay())]))
    assert rows[-1]["event"] == "phase"


def test_telling_gradients_apart_does_not_change_a_bit(monkeypatch):
    class Decay(Strategy):
        role = "penalty"

        def penalty(self, model, batches, run):
            return {"all": 1e-3 * sum(p.square().sum() for p in model.parameters())}

    one = make_run([phase(Decay())])
    train_here(one)
    monkeypatch.setattr("zoo.training.guard.Guard.probe", lambda *_: None)
    monkeypatch.setattr("zoo.training.guard.Guard.finish", lambda *_, **__: {})
    two = make_run([phase(Decay())])
    train_here(two)
    assert same_bits(one.model.state_dict(), two.model.state_dict())


def test_parameters_that_no_pass_ever_reaches_are_no_failure():
    rows = train_here(make_run([phase(Strategy())], backbone="spare"))
    assert rows[-1]["event"] == "phase"


def test_a_trainable_parameter_in_no_group_fails_at_once():
    class Forgets(Strategy):
        def parameter_groups(self, model, rate):
            return [ParameterGroup(params=list(model.head.parameters()), rate=rate, decay=0.0)]

    with pytest.raises(ZooError, match=r"'backbone.stem.0.weight' is trainable but in no parameter group"):
        train_here(make_run([phase(Forgets())]))


def test_what_is_thawed_later_must_be_in_a_group_too():
    class Later(Strategy):
        def prepare(self, model, run):
            model.freeze()

        def begin_epoch(self, model, run):
            if run.epoch == 1:
                model.unfreeze(["body"])

        def parameter_groups(self, model, rate):
            return [ParameterGroup(params=list(model.head.parameters()), rate=rate, decay=0.0)]

    with pytest.raises(ZooError, match=r"'backbone.body.0.weight' is trainable but in no parameter group"):
        train_here(make_run([phase(Later())]))


def test_what_is_injected_must_be_merged():
    class Leaves(Strategy):
        def prepare(self, model, run):
            model.backbone.body[0].register_parameter("scale", nn.Parameter(torch.ones(())))

        def penalty(self, model, batches, run):
            return {}

        def objective(self, model, batches, run):
            return {"x": model.supervised(batches["train"]) * model.backbone.body[0].scale}

    with pytest.raises(ZooError, match=r"backbone\.body\.0\.scale"):
        train_here(make_run([phase(Leaves())]))


def test_nothing_to_learn_is_said():
    class Nothing(Strategy):
        def prepare(self, model, run):
            model.requires_grad_(False)

    with pytest.raises(ZooError, match="nothing learns"):
        train_here(make_run([phase(Nothing())]))


def test_a_frozen_backbone_stays_frozen_under_averaging():
    """An average of equal numbers is not always that number, to the last bit; the published backbone is."""

    class Sloppy(Strategy):
        role = "averaging"

        def prepare(self, model, run):
            self.mean = clone_state(model.state_dict())

        def evaluation_weights(self, model):
            return {n: v * 1.0001 if v.is_floating_point() else v for n, v in self.mean.items()}

    run = make_run([phase(Freeze(), Sloppy())])
    before = clone_state(run.model.state_dict())
    train_here(run)
    after = run.model.state_dict()
    assert all(tensor_hash(after[n]) == tensor_hash(before[n]) for n in before if n.startswith("backbone."))
    assert any(tensor_hash(after[n]) != tensor_hash(before[n]) for n in before if n.startswith("head."))
