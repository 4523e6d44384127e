"""Blocks that are frozen before the first that learns: no graph, nothing kept for a backward pass, equal gradients.

Autograd does all of it where no frozen parameter and no input asks for gradients; these tests hold it to that.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from zoo_registry import Batch, Column, Registry
from zoo_registry.options import parse_options

from zoo.assembly.assemble import assemble_model
from zoo.assembly.model import under

COLUMNS = (Column(name="label", classes=("a", "b", "c")),)


class Nobody:
    """Stands for a run that the strategy does not ask."""

    total_steps = 10
    steps_per_epoch = 5
    epoch = 0


def partly_frozen(backbone: str):
    """A model prepared by ``partial`` (its last block learns), and the names of its frozen blocks' prefixes."""
    registry = Registry()
    made = assemble_model(registry, backbone=backbone, head="linear", columns=COLUMNS, pretrained=False)
    entry = registry.strategy("partial")
    options = parse_options(entry.spec.options, {"blocks": 1}, where="partial")
    made.model.train()
    entry.factory()(entry.spec, options).prepare(made.model, Nobody())
    made.model.train()
    learning = {name for name, p in made.model.named_parameters() if p.requires_grad}
    frozen = [
        p for prefixes in made.model.blocks().values() for p in prefixes if not any(under(n, (p,)) for n in learning)
    ]
    return made.model, frozen


def step(model, x):
    """Gradients by name, and the bytes kept for the backward pass beside the parameters."""
    owned = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.zero_grad(set_to_none=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.supervised(
            Batch(views={"train": x}, targets={"label": torch.arange(len(x)) % 3}, ids=range(len(x)))
        )
    held = sum(kept.values())
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, held


@pytest.mark.parametrize("backbone", ["starter/cnn", "starter/vit"])
def test_a_frozen_prefix_keeps_nothing_and_changes_no_gradient(backbone):
    model, frozen = partly_frozen(backbone)
    assert len(frozen) > 1
    x = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    graphs = []
    inner = [module for name, module in model.named_modules() if under(name, frozen)]
    assert not any(m.training for m in inner if isinstance(m, nn.modules.batchnorm._BatchNorm))
    watching = [m.register_forward_hook(lambda _m, _i, out: graphs.append(out.requires_grad)) for m in inner]
    gradients, held = step(model, x)
    for hook in watching:
        hook.remove()
    assert graphs
    assert not any(graphs)
    cut = [m.register_forward_hook(lambda _m, _i, out: out.detach()) for m in inner]
    by_hand, held_by_hand = step(model, x)
    for hook in cut:
        hook.remove()
    assert held == held_by_hand
    assert gradients.keys() == by_hand.keys()
    assert all(torch.equal(gradients[name], by_hand[name]) for name in gradients)
    model.thaw()
    assert held < 0.5 * step(model, x)[1]
