"""Keyed randomness: a draw depends on what it is for, never on what was drawn before it.

Samples are keyed by (seed, epoch, draw, stream, view), the model by (seed, step, rank); so the state of all randomness
is a few integers, and neither the number of workers nor a resume changes a bit.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator


def key(*parts: object) -> int:
    """A 63-bit integer made of the parts' ``repr``: BLAKE2b, the same on every machine and in every process.

    Parts should be integers, strings, floats, bools, None, or tuples of them.
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


def generator(*parts: object) -> Generator:
    """A fresh CPU ``torch.Generator`` seeded with :func:`key` of the parts."""
    import torch

    return torch.Generator().manual_seed(key(*parts))
