"""NaN, Inf or nothing but zeros in weights: refused at assembly, without reading a large mapped file again each time.

A weights file is read once, piece by piece; that it was found good is noted beside the cache, under its sha256 or, of a
file that nobody hashed, under its stamp (device, inode, size, times of change).
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from zoo_registry import IntegrityError

from zoo.assembly.memory import is_mapped
from zoo.keys import key

NOTED_FROM = 16 * 2**20
"""Bytes from which on a file's being good is noted; smaller ones are read in a few milliseconds."""

_PIECE = 2**20
_OTHERS = "no use can be made of them; choose others, or get the file again"
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_WHOLE = frozenset({"I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"})


def check_finite(module: nn.Module, name: str, *, file: Path | None = None, sha256: str | None = None) -> None:
    """Refuse weights with NaN or Inf, and weights that are all zero.

    Args:
        module: loaded.
        name: what messages call it.
        file: the safetensors file that tensors of ``module`` are mapped from, where there is one.
        sha256: of the file, where it is known.

    Raises:
        IntegrityError: names the first such tensor, or says that there is nothing but zeros.
    """
    spared = file is not None and file_is_finite(file, sha256)
    for tensor_name, tensor in module.state_dict().items():
        if spared and is_mapped(tensor):
            continue
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise IntegrityError(f"weights of {name}: tensor {tensor_name!r} has NaN or Inf values", hint=_OTHERS)
    matrices = [t for t in module.state_dict().values() if t.is_floating_point() and t.ndim > 1]
    if matrices and not any(bool(t.any()) for t in matrices):  # vectors may be: biases, scales of new branches
        raise IntegrityError(f"weights of {name}: every tensor is zero", hint=_OTHERS)


def file_is_finite(path: Path, sha256: str | None = None) -> bool:
    """Whether all tensors of a safetensors file are finite; False too where its types are not among the usual ones."""
    note = _note(path, sha256) if path.stat().st_size >= NOTED_FROM else None
    if note is not None and note.is_file():
        return True
    good = all(_finite(piece) for piece in _pieces(path))
    if good and note is not None:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, no more
            note.parent.mkdir(parents=True, exist_ok=True)
            note.touch()
    return good


def _note(path: Path, sha256: str | None) -> Path:
    from huggingface_hub import constants

    stat = path.stat()
    stamp = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return Path(constants.HF_HOME) / "zoo" / "finite" / (sha256 or f"{key('finite', platform.node(), *stamp):016x}")


def _finite(piece: Tensor | None) -> bool:
    """Of a tensor [N]; None stands for one of a type that is not known. NaN passes through to both ends."""
    if piece is None:
        return False
    low, high = torch.aminmax(piece)
    return math.isfinite(float(low)) and math.isfinite(float(high))


def _pieces(path: Path) -> Iterator[Tensor | None]:
    """The floating-point values of a safetensors file, a MiB at a time, in one buffer that is used again."""
    buffer = bytearray(_PIECE)
    with path.open("rb", buffering=0) as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(start - 8))
        for name, row in header.items():
            if name == "__metadata__" or row["dtype"] in _WHOLE:
                continue
            dtype = _FLOATS.get(row["dtype"])
            if dtype is None:
                yield None
                return
            position, end = (start + offset for offset in row["data_offsets"])
            stream.seek(position)
            while position < end:
                count = stream.readinto(memoryview(buffer)[: min(_PIECE, end - position)])
                if not count or count % dtype.itemsize:  # cut short under our hands, or read in odd bites
                    yield None
                    return
                yield torch.frombuffer(buffer, dtype=dtype, count=count // dtype.itemsize)
                position += count
