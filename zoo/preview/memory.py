"""Bytes: of tensors, of what autograd keeps for the backward pass, of the device's free memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def module_bytes(module: nn.Module) -> int:
    """Parameters and buffers."""
    return tensor_bytes([*module.parameters(), *module.buffers()])


def tensor_bytes(tensors: Iterable[Any]) -> int:
    """Of all tensors among the values, each once."""
    found = {id(t): t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor)}
    return sum(found.values())


class _Held:
    """A tensor that autograd keeps; the tracker is told when it lets go."""

    def __init__(self, tensor: Tensor, tracker: KeptBytes) -> None:
        self.tensor, self.tracker = tensor, tracker
        storage = tensor.untyped_storage()
        self.key, self.size = storage.data_ptr(), storage.nbytes()
        tracker.hold(self.key, self.size)

    def __del__(self) -> None:
        self.tracker.release(self.key, self.size)


class KeptBytes:
    """Counts the bytes that autograd keeps for backward passes, parameters left out.

    Attributes:
        peak: most bytes at any moment.
    """

    def __init__(self, model: nn.Module) -> None:
        self._own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
        self._holders: dict[int, int] = {}
        self._now = 0
        self.peak = 0

    def hold(self, key: int, size: int) -> None:
        """One more holder of a storage."""
        count = self._holders.get(key, 0)
        self._holders[key] = count + 1
        if not count and key not in self._own:
            self._now += size
            self.peak = max(self.peak, self._now)

    def release(self, key: int, size: int) -> None:
        """One holder less."""
        count = self._holders.pop(key, 0) - 1
        if count > 0:
            self._holders[key] = count
        elif not count and key not in self._own:
            self._now -= size

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what is computed within."""
        pack: Any = lambda tensor: _Held(tensor, self)  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
            yield


@contextmanager
def largest_output(model: nn.Module) -> Iterator[list[int]]:
    """The bytes of the largest input and output of any module within, as the list's one number: a pass without grad."""
    found = [0]

    def note(_module: nn.Module, inputs: Any, output: Any) -> None:
        found[0] = max(found[0], tensor_bytes([*inputs, *(output if isinstance(output, list | tuple) else [output])]))

    hooks = [m.register_forward_hook(note) for m in model.modules() if not list(m.children())]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def free_bytes(device: torch.device) -> int | None:
    """Memory that the device has left, None where it does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory()) - int(torch.mps.current_allocated_memory())
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":") for line in file)
        free = int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):
            return None
    limit = _container_bytes()
    return free if limit is None else min(free, limit)


def _container_bytes() -> int | None:
    """What the control group of this process has left, None where there is no limit."""
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            limit = int(file.read())
        with open("/sys/fs/cgroup/memory.current", encoding="ascii") as file:
            return max(0, limit - int(file.read()))
    except (OSError, ValueError):  # "max", or no control groups
        return None
