"""``TransferModel``: a backbone and a head as one module, the thing that strategies work on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from zoo_registry import Batch, Classifier, Column, Input, Pass

from zoo.compute.computing import Computing, as_float32


class TransferModel(nn.Module):
    """Backbone + head.

    Args:
        backbone: a module of the backbone contract.
        head: a module of the head contract.
        columns: the target columns, in order.
        input: what the backbone is fed, where it is known.

    The state dict's names start with ``backbone.``, ``head.`` and, within a phase, ``auxiliary.``.

    Attributes:
        computing: how :meth:`forward`, which training goes through, runs the backbone; :meth:`predict` is exact.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, columns: tuple[Column, ...], input: Input | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.auxiliary = nn.ModuleDict()
        self.columns = columns
        self.input = input
        self.taps: tuple[str, ...] = ()
        self.computing = Computing()
        self._frozen: set[nn.Module] = set()

    def forward(self, batch: Batch, view: str | None = None) -> Pass:
        """The pass of one view (the batch's first by default): computed once, remembered on the batch."""
        name = view or next(iter(batch.views), "features")
        key = (id(self), name, self.training, torch.is_grad_enabled())
        if key not in batch.passes:
            if batch.features is not None:
                features, taps = batch.features, dict[str, Any]()
            else:
                features, taps = self._features(batch.views[name])
            batch.passes[key] = Pass(features, self.head(features), taps)
        return batch.passes[key]

    def predict(self, x: Any) -> dict[str, Tensor]:
        """``{column: outputs}`` for one normalised input batch, [B, C, H, W] for images."""
        outputs: dict[str, Tensor] = self.head(self.backbone(x))
        return outputs

    def _features(self, x: Any) -> tuple[Any, dict[str, Any]]:
        taps: dict[str, Any] = {}

        def keep(name: str) -> Callable[..., None]:
            return lambda _module, _inputs, output: taps.__setitem__(name, as_float32(output))

        hooks = [self.backbone.get_submodule(tap).register_forward_hook(keep(tap)) for tap in self.taps]
        try:
            return self.computing.features(self.backbone, x, tapped=bool(hooks)), taps
        finally:
            for hook in hooks:
                hook.remove()

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], weights: Any = None) -> Tensor:
        """Scalar: the head's per-sample losses, averaged."""
        return self.average(self.head.loss(outputs, targets), weights)  # type: ignore[operator]

    def average(self, losses: Mapping[str, Tensor], weights: Any = None) -> Tensor:
        """Scalar: per column the mean over the samples that have a label, summed over columns.

        Args:
            losses: column -> [B], NaN where the label is missing.
            weights: [B], which multiply the per-sample losses.
        """
        total: Tensor | None = None
        for values in losses.values():
            mean = _mean_of_present(values, weights)
            total = mean if total is None else total + mean
        return torch.zeros((), requires_grad=True) if total is None else total

    def supervised(self, batch: Batch) -> Tensor:
        """The head's loss on the batch: mixed, weighed, averaged over the labels present."""
        outputs = self(batch).outputs
        if batch.targets is None:
            raise ValueError("a batch without targets has no supervised loss")
        parts = [self.loss(outputs, targets, weights) for targets, weights in batch.parts()]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum()

    def blocks(self) -> dict[str, tuple[str, ...]]:
        """Ordered block name -> parameter-name prefixes relative to this model, stem first.

        A backbone without the capability ``blocks`` is one block that covers everything.
        """
        if not hasattr(self.backbone, "blocks"):
            return {"backbone": ("backbone",)}
        return {name: tuple(f"backbone.{p}" for p in prefixes) for name, prefixes in self.backbone.blocks().items()}  # type: ignore[operator]

    def freeze(self, blocks: Iterable[str] | None = None) -> None:
        """Freeze the named blocks of the backbone (all by default): parameters, and BatchNorm statistics too."""
        self._set_frozen(blocks, True)

    def unfreeze(self, blocks: Iterable[str] | None = None) -> None:
        """The opposite of :meth:`freeze`."""
        self._set_frozen(blocks, False)

    def thaw(self) -> None:
        """Everything learns again; where each phase starts."""
        self.requires_grad_(True)
        self._frozen.clear()
        self.train(self.training)

    def _set_frozen(self, blocks: Iterable[str] | None, frozen: bool) -> None:
        known = self.blocks()
        if blocks is None:
            prefixes: tuple[str, ...] = ("backbone",)
        else:
            prefixes = tuple(p for b in blocks for p in known[b])
        for name, parameter in self.named_parameters():
            if under(name, prefixes):
                parameter.requires_grad_(not frozen)
        modules = {module for name, module in self.named_modules() if under(name, prefixes)}
        self._frozen = self._frozen | modules if frozen else self._frozen - modules
        self.train(self.training)

    def train(self, mode: bool = True) -> TransferModel:
        """As in torch, but frozen blocks stay in evaluation mode, so that their BatchNorm statistics rest too.

        A backbone of which nothing learns is in evaluation mode as a whole (dropout and stochastic depth are off).
        """
        super().train(mode)
        if not any(p.requires_grad for p in self.backbone.parameters()):
            self.backbone.eval()
        for module in self._frozen:
            module.training = False
        return self

    def rests(self, module: nn.Module) -> bool:
        """Whether the module is frozen by :meth:`freeze`; one that was put in its place later is not."""
        return module in self._frozen


def _mean_of_present(values: Tensor, weights: Any) -> Tensor:
    """Scalar: the mean of ``values`` [B], times ``weights`` [B] or None, over those that are not NaN."""
    if values.device.type == "cpu":  # where it costs no waiting: nothing is missing if the plain mean is a number
        mean = values.mean() if weights is None else (values * weights).mean()
        if not math.isnan(mean.item()):
            return mean
    missing = values.isnan()
    kept = values.masked_fill(missing, 0.0)
    summed = kept.sum() if weights is None else (kept * weights).sum()
    return summed / (~missing).sum().clamp(min=1)


def under(name: str, prefixes: Iterable[str]) -> bool:
    """Whether a parameter or module name lies under one of the prefixes."""
    return any(name == p or name.startswith(p + ".") for p in prefixes)


class FoldedHead(nn.Module):
    """A head that was folded into one linear layer: logits by the layer, everything else by the head it came from.

    Args:
        origin: the head, for its loss and decoding; its own parameters are not among this module's.
        classifier: weight [K, D] and bias [K].
        column: the one target column.
    """

    def __init__(self, origin: nn.Module, classifier: Classifier, column: Column) -> None:
        super().__init__()
        self.weight = nn.Parameter(classifier.weight.detach().clone())
        self.bias = nn.Parameter(classifier.bias.detach().clone())
        self.column = column
        if hasattr(origin, "threshold"):
            self.threshold = float(origin.threshold)  # type: ignore[arg-type]
        if hasattr(origin, "metrics"):
            self.metrics = origin.metrics
        self._origin = [origin]  # in a list, so that torch does not register it

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> FoldedHead:
        self._origin[0]._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """``{column: features @ weight.T + bias}``, [B, K]; values [B] for regression."""
        outputs = nn.functional.linear(features, self.weight, self.bias)
        return {self.column.name: outputs.squeeze(1) if self.column.kind == "regression" else outputs}

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As the original head's."""
        losses: dict[str, Tensor] = self._origin[0].loss(outputs, targets)  # type: ignore[operator]
        return losses

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As the original head's."""
        decoded: dict[str, Tensor] = self._origin[0].decode(outputs)  # type: ignore[operator]
        return decoded

    def fold(self) -> Classifier:
        """The layer itself."""
        return Classifier(self.weight.detach(), self.bias.detach())
