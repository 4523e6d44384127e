"""The passes of one model on a compute path. Whatever comes out of a backbone in training is float32 again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.compute.path import PLAIN, ComputePath


class Computing:
    """How a model runs its backbone within a training step.

    Args:
        path: the run's compute path.
        batch_size: samples of a full micro-batch; others are not compiled, as each size costs a compilation.

    A copy of it starts without anything compiled.
    """

    def __init__(self, path: ComputePath = PLAIN, batch_size: int = 0) -> None:
        self.path = path
        self.batch_size = batch_size
        self._compiled: Callable[[Any], Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Computing:
        return Computing(self.path, self.batch_size)

    def __reduce__(self) -> tuple[Any, ...]:
        return Computing, (self.path, self.batch_size)

    def features(self, backbone: nn.Module, x: Any, *, tapped: bool = False) -> Any:
        """The backbone's features of a batch, in float32.

        Args:
            backbone: the module.
            x: its input, [B, C, H, W] for images.
            tapped: somebody listens to its inside, which compiled code does not let them.
        """
        run = self._runner(backbone, x, tapped)
        if self.path.precision != "bf16":
            return run(x)
        # One context a pass: its casts of weights end with it, so weights may move between two passes of a step.
        with torch.autocast(_first(x).device.type, dtype=torch.bfloat16):
            found = run(x)
        return as_float32(found)

    def _runner(self, backbone: nn.Module, x: Any, tapped: bool) -> Callable[[Any], Any]:
        if not self.path.compile or tapped or not torch.is_grad_enabled() or len(_first(x)) != self.batch_size:
            return backbone
        if self._compiled is None:
            from torch._functorch import config

            config.donated_buffer = False  # the loop may ask for gradients of one pass twice
            self._compiled = torch.compile(backbone, dynamic=False)
        return self._compiled


def as_float32(value: Any) -> Any:
    """Tensors of a shorter float type as float32, also within lists, tuples and mappings; anything else as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() and value.dtype != torch.float64 else value
    if isinstance(value, Mapping):
        return type(value)({name: as_float32(item) for name, item in value.items()})  # type: ignore[call-arg]
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(as_float32(item) for item in value)
    return value


def _first(x: Any) -> Tensor:
    """The tensor of an input, the first of a mapping's."""
    return next(iter(x.values())) if isinstance(x, Mapping) else x
