"""Memory layouts: of a model's kernels, and as a checkpoint notes them.

A layout is no value, but sums run in the order of memory: a tensor that comes back in another layout than it had gives
other last bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.compute.path import FORMATS


def place(model: nn.Module, memory_format: str) -> None:
    """Lay out every parameter and buffer of four dimensions; the tensors stay the same objects.

    Strides become those that torch gives a new tensor, also along axes of length 1, where several are right.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            plain = tensor.data
            laid = torch.empty_like(plain, memory_format=FORMATS[memory_format])
            if laid.stride() != plain.stride():
                tensor.data = laid.copy_(plain)


def place_input(x: Tensor, memory_format: str) -> Tensor:
    """A batch [B, C, H, W] in this layout; anything else as it is."""
    if memory_format == "contiguous" or x.ndim != 4:
        return x
    return x.contiguous(memory_format=FORMATS[memory_format])


def odd_strides(tensor: Tensor) -> list[int] | None:
    """The strides of a copy of the tensor, None where they are the plain ones of a contiguous tensor."""
    if tensor.ndim < 2 or not tensor.numel():
        return None
    kept = torch.empty_like(tensor, device="meta").stride()
    plain = torch.empty(tensor.shape, device="meta").stride()
    return list(kept) if kept != plain else None


def with_strides(tensor: Tensor, strides: Sequence[int]) -> Tensor:
    """A copy with these strides, which :func:`odd_strides` said of a tensor of the same shape.

    Raises:
        ValueError: the strides are not those of a dense tensor of this shape.
    """
    laid = torch.empty_strided(tensor.shape, tuple(strides), dtype=tensor.dtype, device=tensor.device)
    if laid.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
        raise ValueError(f"strides {list(strides)} do not fit shape {list(tensor.shape)}")
    return laid.copy_(tensor)
