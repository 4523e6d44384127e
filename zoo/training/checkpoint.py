"""Checkpoints: safetensors + JSON, no pickle; a new folder each, complete or absent.

::

    RUN/checkpoints/
        start-1.safetensors        weights at the start of phase 1 (from 0), kept while it runs; phase 0 starts from
                                   the assembled model
        best-1-4.safetensors       evaluation weights of phase 1's best epoch so far, those that may have moved
        step-1-00000120/           model, optimiser, strategies and loop state after step 120 of phase 1
            tensors.safetensors   state.json (with the sha256 of the other, and of the files it needs)
"""

from __future__ import annotations

import json
import math
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

from zoo.files import remove_leftovers, sync, write_folder, write_json, write_tensors
from zoo.hub.files import sha256_of

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
        self._hashes: dict[str, str] = {}

    def save(self, phase: int, step: int, state: Mapping[str, Any], *, needs: tuple[str, ...] = ()) -> None:
        """Write a checkpoint, then drop what no kept checkpoint needs.

        Args:
            phase, step: where training stands.
            state: nested values with tensors.
            needs: names of the weight files without which this checkpoint cannot be resumed.
        """
        tensors: dict[str, Tensor] = {}
        plain = _take_tensors(state, "", tensors)
        head = {"phase": phase, "step": step, "needs": {name: self._hash(name) for name in needs}}

        def fill(folder: Path) -> None:
            write_tensors(folder / "tensors.safetensors", tensors)
            digest = sha256_of(folder / "tensors.safetensors")
            write_json(folder / "state.json", {**head, "sha256": digest, "state": plain})

        self.path.mkdir(parents=True, exist_ok=True)
        write_folder(self.path / f"step-{phase}-{step:08d}", fill)
        self._prune((phase, step))

    def newest(self, device: torch.device | None = None) -> tuple[Checkpoint | None, list[str]]:
        """The newest undamaged checkpoint, its tensors on ``device`` where they were on one, and what is wrong with
        newer ones. What an interrupted write left behind is removed.
        """
        remove_leftovers(self.path)
        damaged: list[str] = []
        for _, folder in reversed(self._folders()):
            try:
                return self._read(folder, device), damaged
            except (IntegrityError, OSError, ValueError, KeyError) as error:
                damaged.append(f"checkpoint {folder.name} is damaged ({error}); going back to the one before it")
        return None, damaged

    def save_weights(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write ``NAME.safetensors``."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_tensors(self.path / f"{name}.safetensors", tensors)
        self._hashes[name] = sha256_of(self.path / f"{name}.safetensors")

    def load_weights(self, name: str) -> dict[str, Tensor]:
        """Read ``NAME.safetensors``."""
        return load_file(self.path / f"{name}.safetensors")

    def _hash(self, name: str) -> str:
        if name not in self._hashes:
            self._hashes[name] = sha256_of(self.path / f"{name}.safetensors")
        return self._hashes[name]

    def _folders(self) -> list[tuple[tuple[int, int], Path]]:
        """``(phase, step)`` and path of each checkpoint, oldest first."""
        if not self.path.is_dir():
            return []
        found = [(m, p) for p in self.path.iterdir() if (m := _NAME.match(p.name)) and p.is_dir()]
        return sorted(((int(m[1]), int(m[2])), p) for m, p in found)

    def _prune(self, newest: tuple[int, int]) -> None:
        """Keep the last ones up to ``newest`` and what they need; later ones are damaged ones of an earlier life."""
        folders = self._folders()
        kept = [path for place, path in folders if place <= newest][-self.keep :]
        for _, path in folders:
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)
        needed = {name for path in kept for name in _needs(path)}
        for file in self.path.glob("*.safetensors"):
            if file.stem not in needed:
                file.unlink(missing_ok=True)
        sync(self.path)

    def _read(self, folder: Path, device: torch.device | None) -> Checkpoint:
        head = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        needed = {self.path / f"{name}.safetensors": digest for name, digest in head["needs"].items()}
        for file, digest in {folder / "tensors.safetensors": head["sha256"], **needed}.items():
            if sha256_of(file) != digest:
                raise IntegrityError(f"{file.name} differs from its recorded sha256")
        tensors = load_file(folder / "tensors.safetensors")
        return Checkpoint(head["phase"], head["step"], _put_tensors(head["state"], tensors, device))


def _needs(folder: Path) -> list[str]:
    try:
        return list(json.loads((folder / "state.json").read_text(encoding="utf-8"))["needs"])
    except (OSError, ValueError, KeyError):
        return []


def _take_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON: tensors go to ``tensors`` and leave a reference; odd keys and odd floats are written apart."""
    if isinstance(value, Tensor):
        name = f"{len(tensors)}{path}"
        tensors[name] = value
        return {"$tensor": name, "device": value.device.type}
    if isinstance(value, Mapping):
        items = [[k, _take_tensors(v, f"{path}/{k}", tensors)] for k, v in value.items()]
        return {"$map": items} if any(not isinstance(k, str) for k in value) else dict(items)
    if isinstance(value, list | tuple):
        return [_take_tensors(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(float(value))}
    return value


def _put_tensors(value: Any, tensors: Mapping[str, Tensor], device: torch.device | None) -> Any:
    if isinstance(value, dict):
        if "$tensor" in value:
            tensor = tensors[value["$tensor"]]
            return tensor.to(device) if device is not None and value["device"] != "cpu" else tensor
        if "$float" in value:
            return float(value["$float"])
        if "$map" in value:
            return {k: _put_tensors(v, tensors, device) for k, v in value["$map"]}
        return {k: _put_tensors(v, tensors, device) for k, v in value.items()}
    return [_put_tensors(v, tensors, device) for v in value] if isinstance(value, list) else value


def clone_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A detached copy of a state dict, on the same device."""
    with torch.no_grad():
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}
