"""The kit's own transfer model: small, and independent of the application's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo_registry.building import Column
from zoo_registry.conformance.tiny import IMAGE, WIDTH, TinyBackbone, TinyHead
from zoo_registry.inputs import ImageInput
from zoo_registry.strategy import Batch, Pass

COLUMNS = (Column(name="label", classes=("across", "down", "checks")),)
INPUT = ImageInput(size=(IMAGE[1], IMAGE[2]), mean=(0.5,) * 3, std=(0.5,) * 3)


class ReferenceModel(nn.Module):
    """A :class:`~zoo_registry.strategy.TransferModel` of a tiny backbone and head, drawn by ``seed``."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.backbone: nn.Module = TinyBackbone()
            self.head: nn.Module = TinyHead(WIDTH, COLUMNS)
        self.auxiliary = nn.ModuleDict()
        self.columns = COLUMNS
        self.input = INPUT
        self.taps: tuple[str, ...] = ()
        self.resting: set[nn.Module] = set()

    def forward(self, batch: Batch, view: str | None = None) -> Pass:
        """The pass of one view, remembered on the batch."""
        name = view or next(iter(batch.views), "features")
        key = (id(self), name, self.training, torch.is_grad_enabled())
        if key not in batch.passes:
            with self._tapped() as taps:
                features = self.backbone(batch.views[name]) if batch.features is None else batch.features
            batch.passes[key] = Pass(features, self.head(features), taps)
        return batch.passes[key]

    @contextmanager
    def _tapped(self) -> Iterator[dict[str, Any]]:
        taps: dict[str, Any] = {}

        def recorder(tap: str) -> Callable[..., None]:
            return lambda _module, _inputs, output: taps.__setitem__(tap, output)

        handles = [self.backbone.get_submodule(tap).register_forward_hook(recorder(tap)) for tap in self.taps]
        try:
            yield taps
        finally:
            for handle in handles:
                handle.remove()

    def loss(self, outputs: Mapping[str, Any], targets: Mapping[str, Any], weights: Any = None) -> Tensor:
        """The head's losses, averaged."""
        return self.average(self.head.loss(outputs, targets), weights)

    def average(self, losses: Mapping[str, Any], weights: Any = None) -> Tensor:
        """Mean over the labels present, weighed, summed over columns."""
        total = torch.zeros(())
        for each in losses.values():
            present = ~each.isnan()
            values = torch.where(present, each, 0.0) * (1.0 if weights is None else weights)
            total = total + values.sum() / present.sum().clamp(min=1)
        return total

    def supervised(self, batch: Batch) -> Tensor:
        """The loss of a labelled batch, mixed where the batch is."""
        outputs = self(batch).outputs
        return torch.stack([self.loss(outputs, targets, weights) for targets, weights in batch.parts()]).sum()

    def blocks(self) -> dict[str, tuple[str, ...]]:
        """The backbone's blocks, with ``backbone.`` in front of the prefixes."""
        named: Mapping[str, tuple[str, ...]] = self.backbone.blocks()
        return {block: tuple(f"backbone.{prefix}" for prefix in prefixes) for block, prefixes in named.items()}

    def freeze(self, blocks: Iterable[str] | None = None) -> None:
        """Stop parameters and BatchNorm statistics of these blocks (all by default)."""
        self._learn(blocks, False)

    def unfreeze(self, blocks: Iterable[str] | None = None) -> None:
        """Let them learn."""
        self._learn(blocks, True)

    def _learn(self, blocks: Iterable[str] | None, learning: bool) -> None:
        known = self.blocks()
        prefixes = ("backbone",) if blocks is None else tuple(p for block in blocks for p in known[block])
        for name, parameter in self.named_parameters():
            if under(name, prefixes):
                parameter.requires_grad_(learning)
        modules = {module for name, module in self.named_modules() if under(name, prefixes)}
        self.resting = self.resting - modules if learning else self.resting | modules
        self.train(self.training)

    def train(self, mode: bool = True) -> ReferenceModel:
        """As in torch, but frozen modules stay in evaluation mode."""
        super().train(mode)
        for module in self.resting:
            module.training = False
        return self


def under(name: str, prefixes: Iterable[str]) -> bool:
    """Whether a dotted name is, or lies under, one of the prefixes."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
