"""Memory that a step gives back stays with the process, on Linux with glibc.

By default glibc hands freed memory back to the kernel and asks for large tensors by ``mmap`` each time. A training step
frees and takes hundreds of megabytes, and the kernel clears every page anew: on a CPU that took a fifth of the step of
a small network. Numbers do not change: torch aligns its tensors itself.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Numbers of glibc's ``mallopt`` (malloc.h)."""
KEEP = {TRIM_THRESHOLD: 2**31 - 1, MMAP_MAX: 0}
USUAL = {TRIM_THRESHOLD: 128 * 1024, MMAP_MAX: 65536}
"""What ``mallopt(3)`` gives as the defaults."""

_lock = threading.Lock()
_inside = 0


@contextmanager
def pages_kept() -> Iterator[bool]:
    """Keep freed memory for the next step; at the end it goes back to the kernel. May be nested, and used by threads.

    Yields:
        Whether the C library can do so.
    """
    global _inside
    library = _glibc()
    if library is None:
        yield False
        return
    with _lock:
        _inside += 1
        if _inside == 1:
            _set(library, KEEP)
    try:
        yield True
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _set(library, USUAL)
                library.malloc_trim(0)


def _set(library: Any, values: dict[int, int]) -> None:
    for name, value in values.items():
        library.mallopt(name, value)


def _glibc() -> Any:
    """The C library of this process where it is glibc, else None."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018
        library.mallopt.argtypes, library.mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
        library.malloc_trim.argtypes, library.malloc_trim.restype = (ctypes.c_size_t,), ctypes.c_int
    except (OSError, AttributeError, TypeError):  # TypeError: Windows takes no None
        return None
    return library
