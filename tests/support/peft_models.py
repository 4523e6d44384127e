"""Small models with an adapter in them, trained by a loop of the tests' own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from zoo_registry import Batch, Column, Registry
from zoo_registry.options import parse_options

from zoo.assembly.assemble import assemble_model
from zoo.assembly.model import TransferModel
from zoo.training.checkpoint import clone_state

METHODS = ("lora", "dora", "ia3", "adalora")
VIT = "timm/test_vit"
SIZE = 32
PREFIX = "backbone.model."


@lru_cache(maxsize=1)
def registry() -> Registry:
    """The installed plugins."""
    return Registry()


def plain_model(backbone: str = VIT, seed: int = 0) -> TransferModel:
    """A random backbone with a linear head, and weights of its normalisation layers that are not one."""
    columns = (Column(name="label", classes=("a", "b", "c")),)
    entry = registry().backbone(backbone)
    size = SIZE if "image_size" in entry.spec.capabilities else None
    model = assemble_model(
        registry(),
        backbone=backbone,
        head="basics/linear",
        columns=columns,
        pretrained=False,
        image_size=size,
        seed=seed,
    ).model
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return model


def strategy(method: str, **options: Any) -> Any:
    """The strategy, built from its spec."""
    entry = registry().strategy(f"peft/{method}")
    factory: Any = entry.factory()
    return factory(entry.spec, parse_options(entry.spec.options, options, where=f"strategy.{method}"))


def images(count: int = 4, seed: int = 1) -> Tensor:
    """[count, 3, SIZE, SIZE]."""
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def batches(steps: int) -> list[tuple[Tensor, Tensor]]:
    """Images and labels, a pair a step."""
    return [(images(6, seed=step), (torch.arange(6) + step) % 3) for step in range(steps)]


@dataclass
class Trained:
    """A model with its adapter still in it.

    Attributes:
        base: the weights before the phase.
        masks: after each step, by parameter name: which singular values of AdaLoRA are not zero.
        moments: before each allocation, by parameter name: weight and gradient, as the strategy sees them.
    """

    model: TransferModel
    strategy: Any
    run: Any
    base: dict[str, Tensor]
    masks: list[dict[str, Tensor]]
    moments: list[dict[str, tuple[Tensor, Tensor]]]


def train(
    method: str,
    steps: int = 8,
    rate: float = 1e-2,
    model: TransferModel | None = None,
    skip: tuple[int, ...] = (),
    **options: Any,
) -> Trained:
    """Train a model for a few steps of AdamW, as the loop of the application would, in few words.

    Steps of ``skip``, counted from 1, have no readable sample: no gradient, and no update.
    """
    model = plain_model() if model is None else model
    base = clone_state(model.state_dict())
    run = SimpleNamespace(total_steps=steps, step=0, epoch=0, device=torch.device("cpu"))
    made = strategy(method, **options)
    torch.default_generator.manual_seed(7)
    model.train()
    made.prepare(model, run)
    model.train()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=rate, weight_decay=0.0)
    seen = Trained(model, made, run, base, [], [])
    for run.step, (x, y) in enumerate(batches(steps)):
        batch = Batch({"train": x}, {"label": y}, ids=range(len(x)))
        loss = model.supervised(batch) + sum(made.penalty(model, {"train": batch}, run).values())
        if run.step + 1 not in skip:
            loss.backward()
            optimiser.step()
        named = {n: p for n, p in model.named_parameters() if "lora_" in n}
        seen.moments.append({n: (p.detach().clone(), p.grad.clone()) for n, p in named.items() if p.grad is not None})
        made.after_step(model, run)
        seen.masks.append({n: p.detach().view(-1) != 0 for n, p in named.items() if "lora_E" in n})
        optimiser.zero_grad()
    model.eval()
    return seen


def features(model: Any, x: Tensor | None = None) -> Tensor:
    """Features of the images in evaluation mode."""
    backbone = getattr(model, "backbone", model).eval()
    with torch.no_grad():
        found: Tensor = backbone(images() if x is None else x)
    return found
