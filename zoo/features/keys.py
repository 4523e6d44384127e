"""What decides the bits of features, as texts and hashes: weights, code, transform, content of samples, arithmetic.

Two passes with equal keys give equal features. What cannot be told for sure has no key, and nothing of it is stored.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo.training.guard import tensor_hash

if TYPE_CHECKING:
    from zoo.data.dataset import Split

_PLAIN = (str, int, float, bool, type(None), torch.dtype)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_PASSING = frozenset({"training"})
"""Attributes of modules that say how they are used just now, not what they compute in evaluation mode."""


def digest(value: Any) -> str:
    """Hex sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def backbone_key(backbone: nn.Module) -> str | None:
    """Hex sha256 of all that a module computes with in evaluation mode; None where that cannot be told.

    It covers every parameter and buffer (buffers that are not saved too), the plain attributes and classes of all
    submodules, the source files of these classes and the versions of their packages. A module with hooks or with a
    ``forward`` of its own has no key.
    """
    structure = []
    for name, module in backbone.named_modules():
        if "forward" in vars(module) or any(getattr(module, hooks, None) for hooks in _HOOKS):
            return None
        kind = type(module)
        plain = {n: repr(v) for n, v in vars(module).items() if n not in _PASSING and _is_plain(v)}
        structure.append([name, kind.__module__, kind.__qualname__, sorted(plain.items())])
    tensors = [[name, tensor_hash(t)] for name, t in (*backbone.named_parameters(), *backbone.named_buffers())]
    kinds = {type(module) for module in backbone.modules()}
    return digest([structure, sorted(tensors), _code(kinds)])


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return isinstance(value, _PLAIN)


def _code(kinds: Iterable[type]) -> list[list[str]]:
    """Versions of the packages of these classes, and hashes of the files that they stand in."""
    modules = sorted({kind.__module__ for kind in kinds})
    tops = sorted({name.partition(".")[0] for name in modules})
    versions = [[top, str(getattr(sys.modules.get(top), "__version__", ""))] for top in tops]
    return versions + [[name, source_of(name)] for name in modules if not name.startswith("torch.")]


@functools.cache
def source_of(module: str) -> str:
    """Hex sha256 of the file that an imported module stands in; empty where it has none."""
    try:
        return hashlib.sha256(Path(inspect.getfile(sys.modules[module])).read_bytes()).hexdigest()
    except (OSError, TypeError, KeyError):
        return ""


def describe_call(function: Any) -> str | None:
    """A decoder or transform as a text that says what it does; None where it cannot be told (a closure)."""
    if isinstance(function, functools.partial):
        inner = describe_call(function.func)
        told = all(_is_plain(v) for v in (*function.args, *function.keywords.values()))
        return f"{inner} {function.args} {sorted(function.keywords.items())}" if inner and told else None
    if inspect.isfunction(function):
        closed = "<" in function.__qualname__
        return None if closed else f"{function.__module__}.{function.__qualname__} {source_of(function.__module__)}"
    if dataclasses.is_dataclass(function) and not isinstance(function, type):
        return f"{type(function).__module__} {function!r} {source_of(type(function).__module__)}"
    return None


def setup_key(device: torch.device, *parts: str) -> str:
    """Hex sha256 of the arithmetic here (device, threads, versions, code that reads images) and of more texts."""
    exact = str(torch.are_deterministic_algorithms_enabled())
    return digest([*_machine(device), *_versions(), exact, *parts])


def _machine(device: torch.device) -> list[str]:
    if device.type == "cuda":
        words = [torch.cuda.get_device_name(device), str(torch.version.cuda), str(torch.backends.cudnn.version())]
        return [*words, str(torch.backends.cuda.matmul.allow_tf32), str(torch.backends.cudnn.allow_tf32)]
    words = [device.type, platform.machine(), _processor(), torch.backends.cpu.get_cpu_capability()]
    return [*words, str(torch.get_num_threads())]


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


@functools.cache
def _versions() -> tuple[str, ...]:
    import zoo

    data = Path(zoo.__file__).parent / "data"
    code = hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(data.glob("*.py"))))
    others = (_version(name) for name in ("torchvision", "pillow", "numpy"))  # importing them all takes seconds
    return (zoo.__version__, torch.__version__, *others, code.hexdigest())


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def sample_hashes(split: Split) -> list[bytes] | None:
    """The sha256 of each sample's content, in order; None where one cannot be read without making it.

    Files are read whole. Arrays and tensors hash with shape and type. Objects that make samples when asked have none.
    """
    sources: Sequence[Any] = split.sources
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # hashing and reading let other threads run
        found = list(pool.map(_content, sources, chunksize=64))
    return None if any(value is None for value in found) else [value for value in found if value is not None]


def _content(source: Any) -> bytes | None:
    try:
        if isinstance(source, str | Path):
            with open(source, "rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        if isinstance(source, bytes | bytearray | memoryview):
            return hashlib.sha256(source).digest()
        if isinstance(source, torch.Tensor):
            return bytes.fromhex(tensor_hash(source))
        return _array(source) if hasattr(source, "__array_interface__") and hasattr(source, "tobytes") else None
    except OSError:
        return None


def _array(source: Any) -> bytes | None:
    shape, kind = getattr(source, "shape", None), getattr(source, "dtype", None)
    if shape is None or kind is None or str(kind) == "object":
        return None
    return hashlib.sha256(f"{kind}{tuple(shape)}".encode() + source.tobytes()).digest()


def joined(hashes: Iterable[bytes]) -> str:
    """One hex sha256 over those of samples, in order."""
    return hashlib.sha256(b"".join(hashes)).hexdigest()
