"""Writing files so that an interrupted write never harms the last good state: new name, fsync, atomic rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with _whole(path) as file:
        file.write(content)


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the name ``path`` once it is written and on the disk."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON (UTF-8, sorted as given, NaN refused) whole or not at all."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """A value as :func:`write_json` writes it."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write a safetensors file whole or not at all, readable as the process's umask says.

    The bytes go to the disk tensor by tensor and are hashed on their way, so nothing is held twice or read again.
    safetensors' own writer makes files of mode 0600 whatever the umask is, which locks a shared folder's other
    readers out. Tensors that share memory are written apart; the layout is safetensors' (an 8-byte length, a JSON
    header, the data; by type, then by name).

    Returns:
        The file's sha256 in hex.
    """
    state = hashlib.sha256()
    with _whole(path) as file:
        for part in _tensor_parts(tensors, metadata):
            state.update(part)
            file.write(part)
    return state.hexdigest()


TYPES = {
    "uint64": "U64", "int64": "I64", "float64": "F64", "complex64": "C64", "float32": "F32", "uint32": "U32",
    "int32": "I32", "bfloat16": "BF16", "float16": "F16", "uint16": "U16", "int16": "I16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""torch's name of a type -> safetensors', in the order in which safetensors lays them out."""
_RANKS = {name: rank for rank, name in enumerate(TYPES)}


def _tensor_parts(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> Iterator[bytes | memoryview]:
    """The content of a safetensors file, piece by piece."""
    import torch

    types = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    order = sorted(tensors.items(), key=lambda item: (_RANKS[types[item[0]]], item[0]))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, tensor in order:
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": TYPES[types[name]], "shape": list(tensor.shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in order:
        if tensor.numel():
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            yield (
                flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy().data
            )  # a single element may have any stride


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder whole or not at all: ``fill`` writes into a new one beside it, which then takes its name.

    An existing folder of that name is replaced; it stays whole until the new one is.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        fill(temporary)
        for part in (*temporary.rglob("*"), temporary):
            sync(part)
        if path.exists() and not exchange(temporary, path):  # else what was there is now the temporary one
            old = path.with_name(f".{path.name}.old-{uuid.uuid4().hex[:8]}")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        elif not path.exists():
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)


def exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, so that there is no moment without either; False where the system cannot.

    Linux's ``renameat2`` with ``RENAME_EXCHANGE``, macOS' ``renamex_np`` with ``RENAME_SWAP``; not on every disk.
    """
    import ctypes

    names = os.fsencode(one), os.fsencode(other)
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return bool(library.renamex_np(*names, 2) == 0)
        here = -100  # AT_FDCWD
        return bool(library.renameat2(here, names[0], here, names[1], 2) == 0)
    return False


def sync(path: Path) -> None:
    """Flush a file's content or a folder's entries to the disk, where the platform can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, keep: str = "") -> None:
    """Remove what interrupted writes left in a folder: names that start with a dot, but ``keep``."""
    for path in folder.glob(".*"):
        if path.name == keep:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
