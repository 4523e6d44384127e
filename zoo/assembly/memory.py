"""Weights that lie in a mapped file, and weights in memory of their own: which is used where.

A pretrained model is assembled with its tensors mapped from the weights file: private, copy-on-write, so that a write
never reaches the file. Two things follow from that.

- Removing or replacing the file's *name* does no harm, the mapping keeps the old bytes. Cutting the file short in place
  would: reading beyond its new end kills the process (SIGBUS), and no program can guard against it. So tensors stay
  mapped only where files are never written in place - installed packages, the cache of a hub, a hub folder: all of them
  write a new file and rename it - and are copied at once where a person gave the file. (On a network disk, another
  machine that deletes the file takes it from under the mapping too.)
- Tensors in a file begin anywhere, torch's own at multiples of 64 bytes, and some kernels add in another order where
  they do not: the last bit of an output may differ.

So whatever computes for long or makes figures owns its weights: training copies what is mapped before its first step,
frozen parts too, and a loaded bundle is copied. On another device the question does not arise: tensors go there
straight from the file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_mapped(tensor: Tensor) -> bool:
    """Whether a CPU tensor lies in memory that torch did not allocate, such as a mapped file."""
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        return False
    return not tensor.untyped_storage().resizable() and not tensor.is_shared()


def own_tensors(module: nn.Module) -> int:
    """Copy parameters and buffers that are mapped into memory of their own, one by one; shared ones stay shared.

    Returns:
        How many there were.
    """
    mapped = [t for t in (*module.parameters(), *module.buffers()) if is_mapped(t)]
    for tensor in mapped:
        tensor.data = tensor.detach().clone()
    return len(mapped)
