"""A running average of the weights that move: what ``ema`` and ``swa`` share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from zoo_registry import Run, Strategy, TransferModel


class WeightAverage(Strategy):
    """``mean <- mean + share (weights - mean)`` over the trainable parameters and the buffers of training modules.

    BatchNorm's running statistics are averaged like the weights: they belong to weights as old as the averaged ones.
    Integer buffers (the count of batches) are copied. A tensor that begins to learn later counts as having stood at
    its value of the phase's start, as it did. Averages of half precision are kept in float32, where small shares of
    a difference still count; what is auxiliary is not averaged, as it is never evaluated.

    Attributes:
        mean: name in the model's state dict -> average.
        count: updates so far.
    """

    def __init__(self) -> None:
        self.mean: dict[str, Tensor] = {}
        self.count = 0
        self._epoch = -1
        self._live: dict[str, Tensor] = {}

    def track(self, model: TransferModel, run: Run) -> None:
        """Note the tensors that move now; begin the average of those that are new."""
        self._live = dict(moving_tensors(cast(nn.Module, model)))
        self._epoch = run.epoch
        for name, tensor in self._live.items():
            begun = self.mean.get(name)
            if begun is None:
                start = run.start.get(name)
                begun = (tensor if start is None or start.shape != tensor.shape else start).clone()
            self.mean[name] = begun.to(tensor.device, _averaged_dtype(tensor))

    def update(self, model: TransferModel, run: Run, share: float) -> None:
        """Take the weights as they are into the average; what may learn changes at an epoch's start alone."""
        if run.epoch != self._epoch:
            self.track(model, run)
        self.count += 1
        floating = [name for name, tensor in self._live.items() if tensor.is_floating_point()]
        for name in self._live.keys() - set(floating):
            self.mean[name].copy_(self._live[name])
        if floating:
            means = [self.mean[name] for name in floating]
            lives = [self._live[name].to(mean.dtype) for name, mean in zip(floating, means, strict=True)]
            torch._foreach_lerp_(means, lives, share)

    def evaluation_weights(self, model: TransferModel) -> Mapping[str, Tensor] | None:
        """The average, once there is one."""
        return dict(self.mean) if self.count else None

    def state_dict(self) -> dict[str, Any]:
        """``count``, and the average as ``mean.NAME``."""
        return {"count": self.count, **{f"mean.{name}": tensor for name, tensor in self.mean.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The opposite of :meth:`state_dict`."""
        self.count, self._epoch, self._live = int(state["count"]), -1, {}
        names = [name for name in state if name.startswith("mean.")]
        self.mean = {name.removeprefix("mean."): state[name].clone() for name in names}


def moving_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name -> tensor of the state dict that a step may change: what is trainable, and buffers of training modules."""
    training = {name for name, module in model.named_modules() if module.training}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor) or name.startswith("auxiliary."):
            continue
        moves = tensor.requires_grad if isinstance(tensor, nn.Parameter) else name.rpartition(".")[0] in training
        if moves:
            yield name, tensor.detach()


def _averaged_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32) if tensor.is_floating_point() else tensor.dtype
