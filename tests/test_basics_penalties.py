"""The penalties and ``sam``: their terms against plain re-derivations, and their place in the real loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_runs import Halt, make_run, phase, same_bits, train_here
from torch import nn
from zoo_registry import Registry
from zoo_registry.options import parse_options

REGISTRY = Registry()


def part(name: str, **options):
    """The spec and the strategy."""
    entry = REGISTRY.strategy(f"basics/{name}")
    return entry.spec, entry.factory()(entry.spec, parse_options(entry.spec.options, options, where=name))


def shaken(run):
    """The run's model, its parameters moved by a drawn amount."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return run.model


def resumed_bits_agree(make, folder, rows=True) -> None:
    """``make()`` is a run; killed in the middle of each epoch it ends at the bits of a run that was left alone."""
    reference = make()
    wanted = train_here(reference)
    for halt in (1, reference.total_steps // 2 + 1):
        place = folder / str(halt)
        place.mkdir()
        with pytest.raises(Halt):
            train_here(make(), place, halt=halt)
        resumed = make()
        assert train_here(resumed, place) == wanted
        assert same_bits(resumed.model.state_dict(), reference.model.state_dict())


# ------------------------------------------------------------------ l2-sp


def numbers(tensors) -> np.ndarray:
    """All values as one float64 vector."""
    return np.concatenate([t.detach().double().numpy().ravel() for t in tensors])


@pytest.mark.parametrize("anchor", ["base", "start"])
def test_l2_sp_is_half_the_squared_distance_to_the_anchor_and_to_zero(anchor):
    spec, strategy = part("l2-sp", alpha=0.3, beta=0.07, anchor=anchor)
    run = make_run([phase((spec, strategy))])
    run.start = {name: tensor + 1 for name, tensor in run.base.items()}
    strategy.prepare(run.model, run)
    model = shaken(run)
    terms = strategy.penalty(model, {}, run)
    anchors = {"base": run.base, "start": run.start}[anchor]
    names = [n for n, _ in model.backbone.named_parameters()]
    now = numbers(model.backbone.get_parameter(n) for n in names)
    then = numbers(anchors[f"backbone.{n}"] for n in names)
    assert terms["backbone"].item() == pytest.approx(0.15 * ((now - then) ** 2).sum(), rel=1e-5)
    assert terms["head"].item() == pytest.approx(0.035 * (numbers(model.head.parameters()) ** 2).sum(), rel=1e-5)
    (terms["backbone"] + terms["head"]).backward()
    weight, name = model.backbone.stem[0].weight, "backbone.stem.0.weight"
    torch.testing.assert_close(weight.grad, 0.3 * (weight.detach() - anchors[name]))
    torch.testing.assert_close(
        model.head.layers["label"].weight.grad, 0.07 * model.head.layers["label"].weight.detach()
    )


def test_l2_sp_leaves_out_what_is_frozen_and_ignores_statistics():
    spec, strategy = part("l2-sp", alpha=2.0)
    run = make_run([phase((spec, strategy))])
    strategy.prepare(run.model, run)
    model = shaken(run)
    model.freeze(["stem"])
    body = [(p, run.base[f"backbone.{n}"]) for n, p in model.backbone.named_parameters() if n.startswith("body")]
    wanted = sum((p - w).square().sum().item() for p, w in body)
    assert strategy.penalty(model, {}, run)["backbone"].item() == pytest.approx(wanted, rel=1e-5)
    model.freeze()
    model.head.requires_grad_(False)
    assert [term.item() for term in strategy.penalty(model, {}, run).values()] == [0.0, 0.0]


def test_l2_sp_pulls_what_was_injected_to_where_it_began():
    spec, strategy = part("l2-sp", alpha=2.0)
    run = make_run([phase((spec, strategy))])
    run.model.freeze()
    run.model.backbone.stem[0].down = nn.Parameter(torch.full((2, 3), 5.0))
    strategy.prepare(run.model, run)
    assert strategy.penalty(run.model, {}, run)["backbone"].item() == 0.0
    run.model.backbone.stem[0].down.data += 0.5
    assert strategy.penalty(run.model, {}, run)["backbone"].item() == pytest.approx(6 * 0.25)


def test_a_strong_l2_sp_holds_the_backbone_where_it_was():
    distance = {}
    for alpha in (0.0, 100.0):
        run = make_run([phase(part("l2-sp", alpha=alpha, beta=0.0), decay=0.0, rate=1e-3, epochs=4)], keep="last")
        train_here(run)
        now = dict(run.model.named_parameters())
        distance[alpha] = sum((now[n] - run.base[n]).square().sum().item() for n in now if n.startswith("backbone."))
    assert 0 < distance[100.0] < 0.2 * distance[0.0]


def test_l2_sp_asks_for_no_weight_decay_and_says_its_anchor():
    spec, strategy = part("l2-sp", anchor="start")
    assert spec.defaults.decay == 0.0
    assert strategy.explain(None, None) == (
        "pulls what learns of the backbone to its weights at the phase's start (alpha 0.01) and the head to zero "
        "(beta 0.01)",
    )


def test_l2_sp_resumes_to_the_same_bits(tmp_path):
    def make():
        first, second = part("l2-sp", alpha=0.1), part("l2-sp", alpha=1.0, anchor="start")
        return make_run([phase(first, epochs=1), phase(part("llrd"), second, epochs=2)], accumulate=2, batch_size=4)

    resumed_bits_agree(make, tmp_path)
