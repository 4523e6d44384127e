"""Building a model without the random initial values that a weights file then overwrites.

Nearly all the time that it takes to make a large pretrained model goes into drawing numbers that nobody ever reads.
Building on the meta device would avoid it, but leaves non-persistent buffers (relative positions, rotary tables)
without values. Here the model is built for real, on the CPU; only writes into *parameters* are skipped, so that every
buffer is computed. What lies in memory that was not filled, or was computed from it, or was drawn at random, is
followed (``unfit``), and a model that still holds any such tensor after loading must be built the ordinary way.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FILLS = _words(
    """
    __iadd__ __idiv__ __imul__ __ipow__ __isub__ __itruediv__ __setitem__ abs_ add_ addcdiv_ addcmul_ bernoulli_
    cauchy_ ceil_ clamp_ clamp_max_ clamp_min_ clip_ copy_ cos_ div_ divide_ erf_ erfinv_ exp_ exponential_ expm1_ fill_
    fill_diagonal_ floor_ geometric_ index_add_ index_copy_ index_fill_ lerp_ log1p_ log_ log_normal_ masked_fill_
    masked_scatter_ mul_ multiply_ neg_ negative_ normal_ pow_ random_ reciprocal_ round_ rsqrt_ scatter_ scatter_add_
    sigmoid_ sign_ sin_ sqrt_ square_ sub_ subtract_ tan_ tanh_ tril_ triu_ true_divide_ trunc_ uniform_ zero_
    """
)
"""Methods that write values into a tensor and leave its shape alone."""

RANDOM = _words(
    """
    bernoulli bernoulli_ cauchy_ exponential_ geometric_ log_normal_ multinomial normal normal_ poisson rand rand_like
    randint randint_like randn randn_like random_ randperm uniform_
    """
)
"""Functions that draw from torch's global generator, unless they are given another."""

BLIND = _words(
    """
    __get__ __hash__ __len__ __set__ _is_view _set_grad_enabled data_ptr dim element_size empty empty_like
    get_device is_complex is_contiguous is_floating_point is_inference is_pinned is_shared ndimension nelement
    new_empty new_ones new_zeros numel ones ones_like register_hook requires_grad_ size storage_offset stride
    untyped_storage zeros zeros_like alias detach expand permute squeeze swapaxes t transpose unsqueeze view view_as
    """
)
"""Functions whose result does not depend on values (``__get__``, ``__set__``: attributes), or is a view of them."""

EXACT = frozenset({"constant_", "ones_", "zeros_", "eye_", "dirac_"})
"""Functions of ``torch.nn.init`` that draw nothing."""

COMPARISONS = frozenset({"lt", "gt", "le", "ge", "__lt__", "__gt__", "__le__", "__ge__"})


_thread = threading.local()


class SkippedInit(TorchFunctionMode):
    """Within, this thread's writes into parameters are skipped, and random numbers are drawn without being used up.

    Attributes:
        read: the value of an unfit tensor decided something in Python: what was built cannot be trusted.

    Other threads are left alone. Leaving the context, torch's global generator is as it was. torch's own initial values
    are skipped a floor higher where :func:`quick_init` is on, which is only quicker.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read = False
        self._owned: dict[int, Tensor] = {}  # memory of parameters; kept, so that no address is given out twice
        self._unfit: dict[int, Tensor] = {}

    def __enter__(self) -> SkippedInit:
        self._state = torch.random.get_rng_state()
        super().__enter__()
        _thread.mode = self
        return self

    def __exit__(self, *error: Any) -> None:
        _thread.mode = None
        super().__exit__(*error)
        if not torch.equal(torch.random.get_rng_state(), self._state):  # by something not in RANDOM
            self.read = True
            torch.random.set_rng_state(self._state)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """See :class:`torch.overrides.TorchFunctionMode`."""
        kind = _KINDS.get(func) or _KINDS.setdefault(func, _kind(func))
        kwargs = kwargs or {}
        if kind == "blind":
            return func(*args, **kwargs)
        if kind != "other":
            target = args[0] if args else kwargs.get("tensor")
            if kind != "random" and self._is_owned(target):
                self._mark(target)
                return target
            if kind in ("random", "random fill", "random init"):
                return self._drawn(func, args, kwargs)
        given = args[1:] if func.__name__ == "new_tensor" else args  # of its own tensor that takes no values
        if not self._among_unfit(given) and not (kwargs and self._among_unfit(kwargs.values())):
            return func(*args, **kwargs)
        if kind == "other" and func.__name__ in COMPARISONS and _called_by_init(sys._getframe(1)):
            return torch.zeros((), dtype=torch.bool)  # "no value is out of bounds": ends the loop of trunc_normal_
        return self._followed(func(*args, **kwargs))

    def skip(self, parameter: nn.Parameter) -> nn.Parameter:
        """Leave a parameter without its initial values."""
        memory = _memory(parameter)
        self._owned.setdefault(memory, parameter)
        self._unfit.setdefault(memory, parameter)
        return parameter

    def is_unfit(self, tensor: Tensor) -> bool:
        """Whether the tensor's values are not what the ordinary way gives."""
        return _memory(tensor) in self._unfit

    def found_in(self, model: nn.Module) -> str | None:
        """Name of a parameter, buffer or plain attribute of ``model`` that is unfit, else None."""
        for prefix, module in model.named_modules():
            for held in (module._parameters, module._buffers, _attributes(module)):
                for name, value in held.items():
                    if self._among_unfit((value,)):
                        return f"{prefix}.{name}" if prefix else name
        return None

    def _among_unfit(self, values: Iterable[Any]) -> bool:
        unfit = self._unfit
        for value in values:
            kind = type(value)
            if kind in _PLAIN:
                continue
            if kind is Tensor or kind is nn.Parameter or isinstance(value, Tensor):
                if value.untyped_storage()._cdata in unfit:
                    return True
            elif (kind in _LISTS and self._among_unfit(value)) or (kind is dict and self._among_unfit(value.values())):
                return True
        return False

    def _is_owned(self, tensor: Any) -> bool:
        if not isinstance(tensor, Tensor):
            return False
        memory = _memory(tensor)
        if type(tensor) is nn.Parameter or isinstance(tensor, nn.Parameter):
            self._owned.setdefault(memory, tensor)
        return memory in self._owned

    def _mark(self, tensor: Tensor) -> None:
        self._unfit.setdefault(_memory(tensor), tensor)

    def _drawn(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        state = torch.random.get_rng_state()
        try:
            return self._followed(func(*args, **kwargs))
        finally:
            torch.random.set_rng_state(state)

    def _followed(self, result: Any) -> Any:
        """Note what came of unfit values; a plain number among it may decide anything."""
        found = list(_tensors((result,)))
        for tensor in found:
            self._mark(tensor)
        self.read |= not found and result is not None
        return result


@contextlib.contextmanager
def quick_init() -> Iterator[None]:
    """Within, the functions of ``torch.nn.init`` return parameters as they are in threads with a :class:`SkippedInit`.

    For one thread at a time: the caller has a lock.
    """
    names = [name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")]
    originals = {name: getattr(nn.init, name) for name in names}
    try:
        for name, function in originals.items():
            setattr(nn.init, name, _skippable(function))
        yield
    finally:
        for name, function in originals.items():
            setattr(nn.init, name, function)


def _skippable(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def init(*args: Any, **kwargs: Any) -> Any:
        mode: SkippedInit | None = getattr(_thread, "mode", None)
        target = args[0] if args else kwargs.get("tensor")
        if mode is not None and isinstance(target, nn.Parameter):
            return mode.skip(target)
        return function(*args, **kwargs)

    return init


def _memory(tensor: Tensor) -> int:
    """What tells apart the memory that tensors lie in; views share it."""
    return int(tensor.untyped_storage()._cdata)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module keeps outside of torch's own dictionaries."""
    return {
        name: value for name, value in vars(module).items() if type(value) not in _PLAIN and name not in _REGISTERED
    }


_PLAIN = frozenset({bool, int, float, str, type(None), torch.dtype, torch.device, torch.Size, OrderedDict})
_LISTS = frozenset({list, tuple, set})
_REGISTERED = frozenset({"_parameters", "_buffers", "_modules"})
_KINDS: dict[Any, str] = {}


def _kind(func: Callable[..., Any]) -> str:
    """``blind``, ``other``, ``random``, or writes into the first tensor: ``fill``, ``init``, and ``random ...``."""
    name = getattr(func, "__name__", "")
    if getattr(func, "__module__", None) == "torch.nn.init":
        return "init" if name in EXACT else "random init"
    if name in FILLS:
        return "random fill" if name in RANDOM else "fill"
    return "blind" if name in BLIND else "random" if name in RANDOM else "other"


def _called_by_init(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") == "torch.nn.init"
