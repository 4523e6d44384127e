"""What a compute path is, which ones a device has, and how the recipe says it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from zoo_registry import UsageError

from zoo.recipe.recipe import AUTO, TrainOptions

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
"""Name -> torch's memory format of what has four dimensions."""


@dataclass(frozen=True, kw_only=True)
class ComputePath:
    """How the steps of a run are computed. Weights, gradients, heads and losses are float32 on every path.

    Attributes:
        precision: of the backbone's passes in training: ``float32``, ``tf32`` (the products of a step, on CUDA), or
            ``bf16`` (autocast as in mixed precision training, Micikevicius et al. 2018, arXiv 1710.03740; bfloat16 has
            the range of float32, so the loss needs no scaling).
        memory_format: of images and kernels, ``contiguous`` or ``channels_last``.
        fused: whether AdamW is one kernel.
        compile: whether the backbone's full batches run through ``torch.compile``.
    """

    precision: str = "float32"
    memory_format: str = "contiguous"
    fused: bool = False
    compile: bool = False

    def label(self) -> str:
        """``bf16, channels_last``; an AdamW that is not one kernel is named too."""
        more = [word for word, on in (("AdamW unfused", not self.fused), ("torch.compile", self.compile)) if on]
        return ", ".join([self.precision, self.memory_format, *more])

    def arithmetic(self, device: torch.device) -> AbstractContextManager[None]:
        """For forward and backward passes: ``tf32`` lets CUDA round the factors of products to 10 bits of mantissa."""
        return cuda_products("tf32") if self.precision == "tf32" and device.type == "cuda" else nullcontext()


FUSED_ON = ("cpu", "cuda", "mps")
"""Devices on which AdamW can be one kernel."""
PLAIN = ComputePath(fused=True)
"""The documented default: where nothing is measured and nothing was said.

One kernel takes a third to a ninth of the time of AdamW's separate operations on a CPU, whatever the model."""
NAMES = tuple(f.name for f in dataclasses.fields(ComputePath))
"""Of the options under ``train`` that make the path."""


def path_of(options: TrainOptions, device: torch.device) -> ComputePath:
    """The path that the options name; what they leave to ``auto`` is as in :data:`PLAIN`, where the device has it."""
    plain = PLAIN if device.type in FUSED_ON else dataclasses.replace(PLAIN, fused=False)
    return dataclasses.replace(plain, **{name: value for name in NAMES if (value := getattr(options, name)) != AUTO})


def open_choices(options: TrainOptions) -> tuple[str, ...]:
    """Names of those that are left to ``auto``."""
    return tuple(name for name in NAMES if getattr(options, name) == AUTO)


def settled(options: TrainOptions, path: ComputePath) -> TrainOptions:
    """The options with the path put in, so that nobody chooses again."""
    values: dict[str, Any] = dataclasses.asdict(path)
    return dataclasses.replace(options, **values)


def check_path(options: TrainOptions, device: torch.device) -> None:
    """The device must have what the options name.

    Raises:
        UsageError: it has not.
    """
    precisions = (AUTO, *precisions_of(device))
    if options.precision not in precisions:
        raise UsageError(
            f"train.precision={options.precision} does not work on {_device_words(device)}",
            hint=f"one of {', '.join(precisions)}, as in --set train.precision=auto",
        )
    if options.fused is True and device.type not in FUSED_ON:
        raise UsageError(f"train.fused=true does not work on {device.type}", hint="--set train.fused=auto")
    if options.compile is True and device.type == "mps":
        raise UsageError("train.compile=true does not work on mps", hint="--set train.compile=auto")


def precisions_of(device: torch.device) -> tuple[str, ...]:
    """The precisions that work there, fast or not."""
    if device.type == "cuda":
        fast = has_fast_bf16(device)
        return ("float32", *(("tf32", "bf16") if fast else ()))  # both came with compute capability 8
    return ("float32", "bf16") if device.type == "cpu" else ("float32",)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; a CPU without them computes it many times slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@contextmanager
def cuda_products(precision: str) -> Iterator[None]:
    """CUDA's products of float32 factors as ``ieee`` float32 or as ``tf32``; as before afterwards."""
    owners: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [owner.allow_tf32 for owner in owners]
    try:
        for owner in owners:
            owner.allow_tf32 = precision == "tf32"
        yield
    finally:
        for owner, value in zip(owners, before, strict=True):
            owner.allow_tf32 = value


def _device_words(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
