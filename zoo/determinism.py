"""A context in which torch computes the same bits every time, and which leaves the process as it found it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def reproducible(deterministic: bool = True, threads: int = 0) -> Iterator[None]:
    """Deterministic kernels where asked for, a number of CPU threads, and torch's global random state kept apart.

    Args:
        deterministic: cuDNN picks fixed algorithms, and operations without a deterministic kernel warn.
        threads: CPU threads, 0 for torch's own choice.
    """
    state, count = torch.random.get_rng_state(), torch.get_num_threads()
    benchmark, fixed = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by deterministic cuBLAS
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.random.set_rng_state(state)
        torch.set_num_threads(count)
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(fixed, warn_only=warn)
