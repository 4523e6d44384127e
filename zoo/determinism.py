"""A context in which torch computes the same bits every time, and which leaves the process as it found it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic as debug

from zoo.compute.path import cuda_products


@contextmanager
def reproducible(deterministic: bool = True, threads: int = 0) -> Iterator[int]:
    """Deterministic kernels where asked for, a number of CPU threads, and torch's global random state kept apart.

    float32 is float32 here: CUDA's convolutions would round to TF32 by default.

    Sums over a batch are split among CPU threads, so the last bits of a result depend on their number: a run notes it
    in its recipe, and everything that must give the same bits runs with that number, however many cores there are.

    Args:
        deterministic: cuDNN picks fixed algorithms, and operations without a deterministic kernel warn.
        threads: CPU threads, 0 for torch's own choice.

    Yields:
        The number of CPU threads in use.
    """
    state, count = torch.random.get_rng_state(), torch.get_num_threads()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    benchmark, mode = torch.backends.cudnn.benchmark, torch.get_deterministic_debug_mode()
    fill = debug.fill_uninitialized_memory
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by deterministic cuBLAS
        torch.backends.cudnn.benchmark = False
        # The same as use_deterministic_algorithms(True, warn_only=True), which would import all of torch's compiler.
        torch.set_deterministic_debug_mode("warn")
        debug.fill_uninitialized_memory = False  # costs time, and nothing reads such memory
    if threads:
        torch.set_num_threads(threads)
    try:
        with cuda_products("ieee"):
            yield torch.get_num_threads()
    finally:
        torch.random.set_rng_state(state)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        torch.set_num_threads(count)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_deterministic_debug_mode(mode)
        debug.fill_uninitialized_memory = fill
