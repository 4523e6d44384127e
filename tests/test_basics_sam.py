"""Sharpness-aware minimisation against the formulas written out by hand, and in the real loop."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny_runs import Halt, make_run, phase, same_bits, train_here
from torch import nn
from zoo_registry import Batch, Registry, RunStoppedError, Strategy
from zoo_registry.options import parse_options

REGISTRY = Registry()


def part(name: str, **options):
    """The spec and the strategy."""
    entry = REGISTRY.strategy(f"basics/{name}")
    return entry.spec, entry.factory()(entry.spec, parse_options(entry.spec.options, options, where=name))


class Bowl(nn.Module):
    """``0.5 w' A w`` with one more parameter that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        draw = np.random.default_rng(0)
        half = draw.normal(size=(4, 4))
        self.matrix = torch.from_numpy(half @ half.T)
        self.w = nn.Parameter(torch.from_numpy(draw.normal(size=4)))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.passes = 0
        self.register_buffer("seen", torch.zeros(()))

    def backward(self):
        """As ``run.backward``: new gradients in place of the old ones."""
        self.w.grad = None
        self.passes += 1
        self.seen += 1
        (0.5 * self.w @ self.matrix @ self.w).backward()
        return {}


@pytest.mark.parametrize("rho", [0.05, 0.7])
@pytest.mark.parametrize("adaptive", [False, True])
def test_the_gradient_is_that_of_the_highest_point_nearby(rho, adaptive):
    bowl = Bowl()
    bowl.backward()
    a, w = bowl.matrix.numpy(), bowl.w.detach().numpy().copy()
    g = a @ w
    if adaptive:
        t = np.abs(w) + 0.01
        climb = rho * t**2 * g / np.linalg.norm(t * g)
    else:
        climb = rho * g / np.linalg.norm(g)
        assert np.linalg.norm(climb) == pytest.approx(rho)
    part("sam", rho=rho, adaptive=adaptive)[1].before_step(bowl, bowl)
    np.testing.assert_allclose(bowl.w.grad.numpy(), a @ (w + climb), rtol=1e-6)
    assert np.array_equal(bowl.w.detach().numpy(), w)
    assert (bowl.passes, bowl.seen.item()) == (2, 1)
    assert bowl.frozen.grad is None
    assert bool((bowl.frozen == 1).all())


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_gradients_that_point_nowhere_are_left_to_the_loop(value):
    bowl = Bowl()
    bowl.w.grad = torch.full_like(bowl.w, value)
    part("sam")[1].before_step(bowl, bowl)
    assert bowl.passes == 0


def test_the_weights_come_back_where_the_second_pass_fails():
    bowl = Bowl()
    bowl.backward()
    before = bowl.w.detach().clone()

    class Broken:
        def backward(self):
            raise RunStoppedError("the loss is not finite")

    with pytest.raises(RunStoppedError):
        part("sam")[1].before_step(bowl, Broken())
    assert torch.equal(bowl.w, before)


class Keep(Strategy):
    """Keeps what the first step saw: its batches, the weights, and the gradients that the optimiser was given."""

    role = "averaging"

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def alter(self, batch, run):
        if run.step == 0 and len(self.batches) < 2:
            self.batches.append(Batch(dict(batch.views), dict(batch.targets), ids=batch.ids))
        return batch

    def before_step(self, model, run):
        if run.step == 0:
            self.model = copy.deepcopy(model)
            self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def by_hand(model, batches) -> dict[str, torch.Tensor]:
    """The gradients of the mean loss over the batches, each by its share of the samples."""
    total = sum(len(batch) for batch in batches)
    losses = [
        nn.functional.cross_entropy(model.predict(b.views["train"])["label"], b.targets["label"]) * len(b) / total
        for b in batches
    ]
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return dict(zip(named, torch.autograd.grad(sum(losses), list(named.values())), strict=True))


@pytest.mark.parametrize("frozen", [False, True])
def test_in_the_loop_all_micro_batches_are_taken_at_the_point_uphill(frozen):
    keep = Keep()
    parts = [part("partial")] if frozen else []
    run = make_run([phase(*parts, part("sam", rho=0.3), keep, epochs=1)], backbone="plain", accumulate=2, clip=0)
    train_here(run)
    model, batches = keep.model, keep.batches
    assert len(batches) == 2
    first = by_hand(model, batches)
    assert ("backbone.stem.0.weight" in first) is not frozen
    norm = torch.stack([g.square().sum() for g in first.values()]).sum().sqrt()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in first:
                parameter.add_(0.3 * first[name] / norm)
    second = by_hand(model, batches)
    assert keep.gradients.keys() == second.keys()
    for name, wanted in second.items():
        torch.testing.assert_close(keep.gradients[name], wanted, rtol=1e-3, atol=1e-5)
        assert not torch.allclose(keep.gradients[name], first[name], rtol=1e-3, atol=1e-5)


def test_statistics_follow_the_first_pass_alone():
    found = []
    for parts in ([], [part("sam", rho=0.5)]):
        run = make_run([phase(Strategy(), *parts, rate=1e-12, decay=0.0, warmup=0.0, steps=1)], keep="last")
        train_here(run)
        norm = run.model.backbone.stem[1]
        found.append((int(norm.num_batches_tracked), norm.running_mean.clone(), norm.running_var.clone()))
    assert found[0][0] == found[1][0] == 1
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(found[0][2], found[1][2])


def sam_run():
    return make_run([phase(part("llrd"), part("sam", adaptive=True, rho=0.5), epochs=2)], accumulate=2, batch_size=4)


def test_it_resumes_to_the_same_bits(tmp_path):
    reference = sam_run()
    wanted = train_here(reference)
    with pytest.raises(Halt):
        train_here(sam_run(), tmp_path, halt=3)
    resumed = sam_run()
    assert train_here(resumed, tmp_path) == wanted
    assert same_bits(resumed.model.state_dict(), reference.model.state_dict())


def test_it_goes_with_features_that_are_computed_once_and_says_its_cost():
    run = make_run([phase(part("linear"), part("sam"), augment="none")])
    rows = train_here(run)
    assert rows[1]["train_loss"] < rows[0]["train_loss"]
    assert part("sam")[1].explain(run.model, run) == (
        "gradients are taken uphill (rho 0.05): two passes a step, about twice the time",
    )
