"""Checkpoints: safetensors + JSON, no pickle; a new folder each, complete or absent.

::

    RUN/checkpoints/
        start-1.safetensors        weights at the start of phase 1 (from 0), kept while it runs
        best-1-4.safetensors       evaluation weights of phase 1's best epoch so far
        step-1-00000120/           model, optimiser, strategies and loop state after step 120 of phase 1
            tensors.safetensors   state.json (with the sha256 of the other)
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from zoo_registry import IntegrityError

from zoo.files import write_folder, write_json, write_tensors

_NAME = re.compile(r"^step-(\d+)-(\d+)$")


@dataclass(frozen=True)
class Checkpoint:
    """The state after ``step`` steps of ``phase``: nested JSON values, with tensors in place of leaves."""

    phase: int
    step: int
    state: dict[str, Any]


class CheckpointFolder:
    """The folder ``RUN/checkpoints``.

    Args:
        path: created on first write.
        keep: how many step checkpoints are kept.
    """

    def __init__(self, path: Path, keep: int = 2) -> None:
        self.path = path
        self.keep = keep

    def save(self, phase: int, step: int, state: Mapping[str, Any], *, needs: tuple[str, ...] = ()) -> None:
        """Write a checkpoint, then drop what no kept checkpoint needs.

        Args:
            phase, step: where training stands.
            state: nested values with tensors.
            needs: names of the weight files without which this checkpoint cannot be resumed.
        """
        tensors: dict[str, Tensor] = {}
        plain = _take_tensors(state, "", tensors)
        head = {"phase": phase, "step": step, "needs": list(needs)}

        def fill(folder: Path) -> None:
            write_tensors(folder / "tensors.safetensors", tensors)
            digest = hashlib.sha256((folder / "tensors.safetensors").read_bytes()).hexdigest()
            write_json(folder / "state.json", {**head, "sha256": digest, "state": plain})

        self.path.mkdir(parents=True, exist_ok=True)
        write_folder(self.path / f"step-{phase}-{step:08d}", fill)
        folders = self._folders()
        for old in folders[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        needed = {name for folder in folders[-self.keep :] for name in _needs(folder)}
        for file in self.path.glob("*.safetensors"):
            if file.stem not in needed:
                file.unlink(missing_ok=True)

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest undamaged checkpoint, and what is wrong with newer ones."""
        damaged = []
        for folder in reversed(self._folders()):
            try:
                return _read(folder), damaged
            except (IntegrityError, OSError, ValueError, KeyError) as error:
                damaged.append(f"checkpoint {folder.name} is damaged ({error}); using the one before it")
        return None, damaged

    def save_weights(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write ``NAME.safetensors``."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_tensors(self.path / f"{name}.safetensors", tensors)

    def load_weights(self, name: str) -> dict[str, Tensor]:
        """Read ``NAME.safetensors``."""
        return load_file(self.path / f"{name}.safetensors")

    def _folders(self) -> list[Path]:
        if not self.path.is_dir():
            return []
        found = [(m, p) for p in self.path.iterdir() if (m := _NAME.match(p.name)) and p.is_dir()]
        return [p for _, p in sorted(((int(m[1]), int(m[2])), p) for m, p in found)]


def _needs(folder: Path) -> list[str]:
    try:
        return list(json.loads((folder / "state.json").read_text(encoding="utf-8"))["needs"])
    except (OSError, ValueError, KeyError):
        return []


def _read(folder: Path) -> Checkpoint:
    head = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    file = folder / "tensors.safetensors"
    if hashlib.sha256(file.read_bytes()).hexdigest() != head["sha256"]:
        raise IntegrityError(f"{file.name} differs from its recorded sha256")
    return Checkpoint(head["phase"], head["step"], _put_tensors(head["state"], load_file(file)))


def _take_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` with every tensor replaced by a reference; dict keys that are no strings are kept apart."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"$tensor": path}
    if isinstance(value, Mapping):
        items = [[k, _take_tensors(v, f"{path}/{k}", tensors)] for k, v in value.items()]
        return {"$map": items} if any(not isinstance(k, str) for k in value) else dict(items)
    if isinstance(value, list | tuple):
        return [_take_tensors(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value


def _put_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"$tensor"}:
            return tensors[value["$tensor"]]
        if set(value) == {"$map"}:
            return {k: _put_tensors(v, tensors) for k, v in value["$map"]}
        return {k: _put_tensors(v, tensors) for k, v in value.items()}
    return [_put_tensors(v, tensors) for v in value] if isinstance(value, list) else value


def clone_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A detached copy of a state dict, on the same device."""
    with torch.no_grad():
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}
