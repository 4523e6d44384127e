"""Features on the disk, for all runs: ``HF_HOME/zoo/features/BACKBONE/SETUP-SAMPLES.safetensors``.

BACKBONE, SETUP and SAMPLES start the hashes of :mod:`zoo.features.keys`. A file appears by a rename, whole, and holds a
sha256 over everything in it, which is checked whenever it is read. Whoever reads a file marks it as used; where room is
needed, the longest unused go first. A file that is removed while it is read stays whole for its reader.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.files import write_tensors
from zoo.training.guard import tensor_hash

FORMAT = "zoo features 1"
SUFFIX = ".safetensors"
STRAY_SECONDS = 24 * 3600
LENGTH = 40
"""Hex digits of a hash in a name."""


@dataclass(frozen=True)
class Entry:
    """What one pass over samples found.

    Attributes:
        features: [M, ...], row by row for the readable samples; a list of such for a pyramid.
        rows: positions of these samples among all that the pass was over, ascending.
        bad: position and reason of each sample that could not be read.
        contents: sha256 of every sample's content, uint8 [N, 32]; empty where they have none.
    """

    features: Any
    rows: list[int]
    bad: list[tuple[int, str]]
    contents: Tensor = field(default_factory=lambda: torch.empty(0, 32, dtype=torch.uint8))

    @property
    def count(self) -> int:
        """Samples of the pass."""
        return len(self.rows) + len(self.bad)


class DamagedError(Exception):
    """A stored file is not what was written; says why."""


def features_folder() -> Path:
    """``HF_HOME/zoo/features``."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "zoo" / "features"


class FeatureStore:
    """The stored entries.

    Args:
        limit: bytes that all files may take together.
        root: their folder, :func:`features_folder` by default.
    """

    def __init__(self, limit: int, root: Path | None = None) -> None:
        self.limit = limit
        self.root = root or features_folder()

    def path(self, backbone: str, setup: str, samples: str) -> Path:
        """Where an entry lies, by the hashes of what decides its bits."""
        return self.root / backbone[:LENGTH] / f"{setup[:LENGTH]}-{samples[:LENGTH]}{SUFFIX}"

    def knows(self, backbone: str) -> bool:
        """Whether anything of this backbone is stored."""
        return (self.root / backbone[:LENGTH]).is_dir()

    def read(self, path: Path) -> Entry | None:
        """The entry, verified; None where there is none.

        Raises:
            DamagedError: it is not what was written; it is removed.
        """
        try:
            os.utime(path)  # used now
            entry = load_entry(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DamagedError(error.strerror or str(error)) from error
        except DamagedError:
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        return entry

    def write(self, path: Path, entry: Entry) -> int:
        """Store an entry and make room for it; its bytes, 0 where it would take more than all may.

        Raises:
            OSError: it cannot be written.
        """
        tensors = _tensors(entry)
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        if size > self.limit:
            return 0
        self.make_room(size, keep=path)
        path.parent.mkdir(parents=True, exist_ok=True)
        bad = json.dumps(entry.bad)
        write_tensors(path, tensors, {"format": FORMAT, "bad": bad, "sha256": _fingerprint(tensors, bad)})
        return size

    def make_room(self, size: int, keep: Path | None = None) -> None:
        """Remove the longest unused files until ``size`` more bytes fit, and what killed processes left behind."""
        found, total = [], 0
        for path in (path for folder in _inside(self.root) for path in _inside(folder)):
            with contextlib.suppress(OSError):
                known = path.stat()
                if path.name.startswith("."):
                    if known.st_mtime < time.time() - STRAY_SECONDS:
                        path.unlink()
                elif path != keep:
                    found.append((known.st_mtime_ns, str(path), known.st_size))
                    total += known.st_size
        for _, name, bytes_of in sorted(found):
            if total + size <= self.limit:
                return
            with contextlib.suppress(OSError):
                os.unlink(name)
            total -= bytes_of

    def superset(self, backbone: str, setup: str, hashes: list[bytes]) -> tuple[Entry, list[int]] | None:
        """An entry of this setup with all these samples, and the position of each in it; damaged ones do not count."""
        for path in _inside(self.root / backbone[:LENGTH]):
            if not path.name.startswith(f"{setup[:LENGTH]}-"):
                continue
            with contextlib.suppress(DamagedError):
                entry = self.read(path)
                if entry is not None and len(entry.contents) >= len(set(hashes)):
                    places = {bytes(row): place for place, row in enumerate(entry.contents.numpy())}
                    if all(value in places for value in hashes):
                        return entry, [places[value] for value in hashes]
        return None


def _inside(folder: Path) -> list[Path]:
    """What lies in a folder, by name; nothing where it cannot be read or is no folder."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _tensors(entry: Entry) -> dict[str, Tensor]:
    single = isinstance(entry.features, Tensor)
    named = {"features": entry.features} if single else {f"features.{i}": t for i, t in enumerate(entry.features)}
    return {**named, "rows": torch.tensor(entry.rows, dtype=torch.int64), "contents": entry.contents}


def _fingerprint(tensors: Mapping[str, Tensor], bad: str) -> str:
    parts = [FORMAT, bad, *(f"{name} {tensor_hash(tensors[name])}" for name in sorted(tensors))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def load_entry(path: Path) -> Entry:
    """Read and verify a file.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it is not what was written.
    """
    from safetensors import safe_open

    try:
        with safe_open(str(path), "pt") as file:
            told: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if told.get("sha256") != _fingerprint(tensors, told.get("bad", "")):
            raise DamagedError("its sha256 is wrong")
        rows, contents = tensors.pop("rows").tolist(), tensors.pop("contents")
        features = (
            tensors["features"] if "features" in tensors else [tensors[f"features.{i}"] for i in range(len(tensors))]
        )
        return Entry(features, rows, [(int(p), str(r)) for p, r in json.loads(told["bad"])], contents)
    except (FileNotFoundError, DamagedError):
        raise
    except Exception as error:  # safetensors has its own, for a header that is none
        raise DamagedError((str(error).splitlines() or [type(error).__name__])[0]) from error
