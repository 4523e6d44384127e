"""Weights files: what lies in one, how timm takes it, and an honest report of what became of each tensor."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import _IncompatibleKeys
from zoo_registry import IntegrityError, LoadReport

Shape = tuple[int, ...]

_PLAIN_LOADS = (nn.Module._load_from_state_dict, _NormBase._load_from_state_dict)
"""The second differs from the first for files without ``num_batches_tracked`` alone."""

_patching = threading.RLock()
_log = logging.getLogger("timm.models._builder")


def file_shapes(path: Path) -> dict[str, Shape]:
    """Tensor name -> shape of a safetensors file; only the header is read.

    Raises:
        IntegrityError: the file is no safetensors file.
    """
    if path.suffix != ".safetensors":  # timm picks its reader by the suffix, and the other reader is pickle's
        raise IntegrityError(f"weights file '{path.name}' is not named .safetensors", "give a safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"weights file '{path.name}' cannot be read: {error}") from error


@contextlib.contextmanager
def recorded_load(*, assign: bool = False) -> Iterator[dict[str, Tensor]]:
    """Collects what this thread hands to ``Module.load_state_dict``: the tensors after timm's own key filter.

    timm keeps its filters to itself; the last dictionary given to torch is the only place that shows their result.
    What timm logs meanwhile about unexpected keys is kept quiet: the :func:`report` says it.

    Args:
        assign: put those tensors into the model as they are, mapped from the file, instead of copying their values.
    """
    taken: dict[str, Tensor] = {}
    thread = threading.get_ident()

    def other_thread(_record: logging.LogRecord) -> bool:
        return threading.get_ident() != thread

    with _patching:
        _log.addFilter(other_thread)
        original = nn.Module.load_state_dict

        def record(self: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return original(self, state_dict, *args, **kwargs)
            taken.clear()
            taken.update(state_dict)
            if not assign or args[1:] or "assign" in kwargs:
                return original(self, state_dict, *args, **kwargs)
            with torch._C.DisableTorchFunction():  # nothing here for an overriding mode to see, and it costs time
                fitted = fitting(self, state_dict)
                if put(self, fitted):
                    return _IncompatibleKeys([], [])
                return original(self, fitted, *args, assign=True, **kwargs)

        nn.Module.load_state_dict = record
        try:
            yield taken
        finally:
            nn.Module.load_state_dict = original
            _log.removeFilter(other_thread)


def fitting(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with every tensor as ``model`` has it, so that it can take its place: dtype, dense, memory of its own.

    What is so already stays as it is, mapped from the file.
    """
    wanted = {name: tensor.dtype for name, tensor in model.state_dict(keep_vars=True).items()}
    used: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, given in state.items():
        tensor = given.detach().to(wanted.get(name, given.dtype)).contiguous()
        memory = tensor.untyped_storage()._cdata
        found[name] = tensor.clone() if memory in used else tensor  # in-place steps on one would move the other
        used.add(memory)
    return found


def put(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Put the tensors of ``state`` into ``model`` as torch's ``assign=True`` does, in a quarter of its time.

    Returns:
        False, and nothing is done, where names or shapes are not exactly the model's, or a module has its own way.
    """
    slots = []
    for prefix, module in model.named_modules():
        if not _loads_plainly(module):
            return False
        start = f"{prefix}." if prefix else ""
        slots += [(module._parameters, start, name, value) for name, value in module._parameters.items()]
        lasting = (item for item in module._buffers.items() if item[0] not in module._non_persistent_buffers_set)
        slots += [(module._buffers, start, name, value) for name, value in lasting]
    wanted = {start + name: value for _, start, name, value in slots if value is not None}
    if wanted.keys() != state.keys() or any(state[name].shape != value.shape for name, value in wanted.items()):
        return False
    for place, start, name, value in slots:
        if isinstance(value, nn.Parameter):
            place[name] = nn.Parameter(state[start + name], requires_grad=value.requires_grad)
        elif value is not None:
            place[name] = state[start + name]
    return True


def _loads_plainly(module: nn.Module) -> bool:
    kind = type(module)
    return (
        kind._load_from_state_dict in _PLAIN_LOADS
        and kind.set_extra_state is nn.Module.set_extra_state
        and not module._load_state_dict_pre_hooks
        and not module._load_state_dict_post_hooks
    )


def borrowed(tensor: Tensor) -> bool:
    """Whether a tensor is dense and lies in memory that is not torch's own: it is mapped from a file, unchanged."""
    return tensor.device.type == "cpu" and tensor.is_contiguous() and not tensor.untyped_storage().resizable()


def report(
    model: nn.Module,
    path: Path,
    taken: Mapping[str, Tensor],
    *,
    classifiers: tuple[str, ...],
    native_shapes: Callable[[], Mapping[str, Shape]] | None,
) -> LoadReport:
    """Compare a loaded ``model`` with its weights file.

    Args:
        model: the model, already loaded.
        path: the weights file.
        taken: what was handed to ``load_state_dict``, see :func:`recorded_load`.
        classifiers: module names of the pretrained classifier, which timm drops.
        native_shapes: shapes of the model at the file's own input size, asked only where names do not tell; None
            where the model has that size.

    Another number of elements means resized; at another input size so do other values. Everything else counts as
    loaded (a filter may also rename, reshape or join tensors).
    """
    shapes = file_shapes(path)
    state = model.state_dict()
    used = {name: tensor for name, tensor in taken.items() if name in state}
    renamed = [name for name in used if name not in shapes]
    sources = _sources(path, {n: used[n] for n in renamed}, [n for n in shapes if n not in used]) if renamed else {}
    converted = [name for name in renamed if name not in sources.values()]
    named = [name for name in used if name in shapes]
    resized = [n for n in named if used[n].numel() != _count(shapes[n])]
    if native_shapes is not None:
        resized += _changed(path, {n: used[n] for n in named if n not in resized})
        native = native_shapes() if converted else {}
        resized += [n for n in converted if used[n].numel() != _count(native.get(n, tuple(used[n].shape)))]
    left = [name for name in shapes if name not in used and name not in sources]
    if converted:  # what was joined into another tensor is not lost, and nothing tells which ones were
        left = [n for n in left if n in taken or n.rpartition(".")[0] in classifiers]
    return LoadReport(
        loaded=len(used) - len(resized),
        resized=tuple(sorted(resized)),
        initialised=tuple(name for name in state if name not in used),
        dropped=tuple(sorted(left)),
    )


def _changed(path: Path, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of ``tensors`` whose values are not those of the file (a grid of 10 x 10 may become one of 5 x 20)."""
    made = {name: tensor for name, tensor in tensors.items() if not borrowed(tensor)}
    with safe_open(path, framework="pt") as file:
        return [n for n, t in made.items() if not torch.equal(t.flatten(), file.get_tensor(n).flatten().to(t.dtype))]


def _sources(path: Path, targets: Mapping[str, Tensor], candidates: list[str]) -> dict[str, str]:
    """File name -> model name of tensors that were only renamed, found by their content."""
    found: dict[str, str] = {}
    open_targets = dict(targets)
    with safe_open(path, framework="pt") as file:
        for candidate in candidates:
            tensor = file.get_tensor(candidate)
            for name, target in open_targets.items():
                if target.shape == tensor.shape and torch.equal(target, tensor.to(target.dtype)):
                    found[candidate] = name
                    del open_targets[name]
                    break
    return found


def _count(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
