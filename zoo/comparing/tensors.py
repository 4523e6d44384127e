"""The tensors of two bundles, file by file and one at a time, so that no model has to fit into memory twice.

Of a tensor that both have in one shape: ``norm`` = |a|, ``change`` = |b - a| (Euclidean, summed in float64), of a block
the roots of the sums of squares. Counters (whole numbers, such as BatchNorm's number of batches) have no part in them.
Equal means equal bit by bit, in the same type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from zoo_registry import IntegrityError

LARGEST = 10
"""Tensors that are named, those that changed most for their size first."""
NAMED = 20
"""Tensors that only one side has, that are named."""


@dataclass
class Block:
    """The tensors of one block that both sides have in one shape."""

    name: str
    tensors: int = 0
    changed: int = 0
    elements: int = 0
    squares: float = 0.0
    moved: float = 0.0

    @property
    def relative(self) -> float | None:
        """|b - a| / |a|; None where |a| is 0."""
        return math.sqrt(self.moved / self.squares) if self.squares > 0 else None

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "block": self.name,
            "tensors": self.tensors,
            "changed": self.changed,
            "elements": self.elements,
            "norm": _finite(math.sqrt(self.squares)),
            "change": _finite(math.sqrt(self.moved)),
            "relative": _finite(self.relative),
        }


@dataclass
class TensorChanges:
    """What differs between the tensors of two models.

    Attributes:
        blocks: in the order of the model, by name.
        largest: (name, relative change) of the tensors that changed, most first.
        reshaped: name -> what it is on both sides, where shape or type differ.
        only_a, only_b: names that one side alone has.
    """

    blocks: dict[str, Block] = field(default_factory=dict)
    largest: list[tuple[str, float]] = field(default_factory=list)
    reshaped: dict[str, tuple[str, str]] = field(default_factory=dict)
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)

    @property
    def same(self) -> int:
        """Tensors that are equal bit by bit."""
        return sum(block.tensors - block.changed for block in self.blocks.values())

    @property
    def changed(self) -> int:
        """Tensors of one shape that are not."""
        return sum(block.changed for block in self.blocks.values())

    @property
    def none(self) -> bool:
        """Whether both have the same tensors."""
        return not (self.changed or self.reshaped or self.only_a or self.only_b)

    def total(self) -> Block:
        """All blocks together."""
        whole = Block("all")
        for block in self.blocks.values():
            for name in ("tensors", "changed", "elements", "squares", "moved"):
                setattr(whole, name, getattr(whole, name) + getattr(block, name))
        return whole

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "same": self.same,
            "changed": self.changed,
            "reshaped": [{"name": name, "a": a, "b": b} for name, (a, b) in self.reshaped.items()],
            "only_a": self.only_a,
            "only_b": self.only_b,
            "blocks": [block.to_json() for block in self.blocks.values()],
            "all": self.total().to_json(),
            "largest": [{"name": name, "relative": _finite(value)} for name, value in self.largest],
        }


def compare_tensors(
    a: Mapping[str, Path], b: Mapping[str, Path], *, same: Iterable[str] = (), block: Callable[[str, str], str]
) -> TensorChanges:
    """Compare the safetensors files of two models.

    Args:
        a, b: file name -> its path; files of one name are compared with one another.
        same: file names whose bytes are known to be equal: counted, and not compared.
        block: of a file's and a tensor's name, the block's.

    Raises:
        IntegrityError: a file is no safetensors file.
    """
    found, known = TensorChanges(), frozenset(same)
    for name in sorted({*a, *b}, key=_order):
        if name not in a or name not in b:
            names, path = (found.only_a, a[name]) if name in a else (found.only_b, b[name])
            names += [_called(name, tensor) for tensor in _names(path)]
        elif name in known:
            for tensor, value in _each(a[name]):
                _count(found, block(name, tensor), value, None)
        else:
            _compare_files(found, name, a[name], b[name], block)
    found.largest = sorted(found.largest, key=lambda row: -row[1])[:LARGEST]
    return found


def _compare_files(found: TensorChanges, file: str, a: Path, b: Path, block: Callable[[str, str], str]) -> None:
    there = frozenset(_names(b))
    found.only_b += [_called(file, name) for name in _names(b) if name not in frozenset(_names(a))]
    with _opened(b) as other:
        for name, left in _each(a):
            if name not in there:
                found.only_a.append(_called(file, name))
                continue
            right = other.get_tensor(name)
            if left.shape != right.shape or left.dtype != right.dtype:
                found.reshaped[_called(file, name)] = (_what(left), _what(right))
                continue
            relative = _count(found, block(file, name), left, right)
            if relative is not None:
                found.largest.append((_called(file, name), relative))


def _count(found: TensorChanges, name: str, left: Tensor, right: Tensor | None) -> float | None:
    """Put a tensor into its block; returns its relative change, None where it did not change or is a counter."""
    row = found.blocks.setdefault(name, Block(name))
    row.tensors += 1
    row.elements += left.numel()
    size = _square(left)
    row.squares += size
    if right is None or _equal(left, right):
        return None
    row.changed += 1
    if not left.is_floating_point():
        return None
    moved = _square(_wide(right) - _wide(left))
    row.moved += moved
    return math.sqrt(moved / size) if size > 0 else math.inf


def _equal(left: Tensor, right: Tensor) -> bool:
    """Bit by bit: NaN equals NaN, 0 is not -0."""
    if left.numel() == 0:
        return True
    return torch.equal(
        left.contiguous().reshape(-1).view(torch.uint8), right.contiguous().reshape(-1).view(torch.uint8)
    )


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.double()


def _square(tensor: Tensor) -> float:
    """The sum of squares; 0 of whole numbers."""
    if not tensor.numel() or not tensor.is_floating_point():
        return 0.0
    return float(torch.linalg.vector_norm(_wide(tensor), dtype=torch.float64)) ** 2


def _names(path: Path) -> list[str]:
    with _opened(path) as file:
        return list(file.keys())


def _each(path: Path) -> Iterator[tuple[str, Tensor]]:
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            yield name, file.get_tensor(name)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{path.name} is no safetensors file: {' '.join(str(error).split())[:200]}") from error


def _called(file: str, tensor: str) -> str:
    """The backbone's tensors by their names, others with their file's."""
    return tensor if file == "model.safetensors" else f"{file}: {tensor}"


def _order(file: str) -> tuple[bool, str]:
    return file != "model.safetensors", file


def _what(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
