"""Checkpoints: safetensors + JSON, no pickle; a new folder each, complete or absent.

::

    RUN/checkpoints/
        start-1.safetensors        weights at the start of phase 1 (from 0), kept while it runs; phase 0 starts from
                                   the assembled model
        best-1-4.safetensors       evaluation weights of phase 1's best epoch so far, those that may have moved
        step-1-00000120/           model, optimiser, strategies and loop state after step 120 of phase 1
            tensors.safetensors   state.json (with the sha256 of the other, of the files it needs, and of itself)
        step-1-00000120-open/      the same before the evaluation that ends the epoch there

Training goes on while a checkpoint is written: its tensors are copied, and one thread writes the copies. One
checkpoint at a time; what went wrong is raised by the next call, and a process that dies meanwhile leaves the
checkpoints before it as they were.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from zoo_registry import IntegrityError

from zoo.compute.layout import odd_strides, with_strides
from zoo.files import json_bytes, remove_leftovers, sync, write_folder, write_json, write_tensors
from zoo.hub.files import sha256_of

_NAME = re.compile(r"^step-(\d+)-(\d+)(-open)?$")

Place = tuple[int, int, bool]
"""Phase, step, and whether the evaluation that ends an epoch there is done: the order of checkpoints."""


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
        self._writing: _Writing | None = None
        self._hashes: dict[str, str] = {}

    def save(
        self,
        phase: int,
        step: int,
        state: Mapping[str, Any],
        *,
        needs: tuple[str, ...] = (),
        weights: Mapping[str, Mapping[str, Tensor]] | None = None,
        open_epoch: bool = False,
        wait: bool = True,
    ) -> None:
        """Write a checkpoint, then drop what no kept checkpoint needs.

        Args:
            phase, step: where training stands.
            state: nested values with tensors; they are copied before this returns.
            needs: names of the weight files without which this checkpoint cannot be resumed.
            weights: name -> tensors of such files that are not written yet. They must not change any more.
            open_epoch: the epoch's evaluation is still to come.
            wait: until it is on the disk; otherwise a thread writes it, see :meth:`check` and :meth:`join`.

        Raises:
            OSError: this one, or with ``wait=False`` the one before, could not be written.
        """
        self.join()
        tensors: dict[str, Tensor] = {}
        plain = _take_tensors(state, "", tensors)
        head: dict[str, Any] = {"phase": phase, "step": step}
        name = f"step-{phase}-{step:08d}{'-open' if open_epoch else ''}"

        def write(copies: Mapping[str, Tensor]) -> None:
            for file, content in (weights or {}).items():
                self.save_weights(file, content)

            def fill(folder: Path) -> None:
                digest = write_tensors(folder / "tensors.safetensors", copies)
                hashes = {needed: self._hash(needed) for needed in needs}
                write_json(folder / "state.json", _sealed({**head, "needs": hashes, "sha256": digest, "state": plain}))

            self.path.mkdir(parents=True, exist_ok=True)
            write_folder(self.path / name, fill)
            self._prune((phase, step, not open_epoch))

        if wait:
            write(tensors)
            return
        self._writing = _Writing(write, {name: host_copy(tensor) for name, tensor in tensors.items()})

    def check(self) -> None:
        """Whether the write under way, if there is one, has failed by now.

        Raises:
            OSError: it has.
        """
        if self._writing is not None and self._writing.failed:
            self.join()

    def join(self) -> None:
        """Wait for the write under way.

        Raises:
            OSError: it failed.
        """
        writing = self._writing
        if writing is not None:
            writing.join()  # a second Ctrl-C may end it; then the thread stays known
            self._writing = None
            if writing.error is not None:
                raise writing.error

    def newest(self, device: torch.device | None = None) -> tuple[Checkpoint | None, list[str]]:
        """The newest undamaged checkpoint, its tensors on ``device`` where they were on one, and what is wrong with
        newer ones. What an interrupted write left behind is removed.
        """
        self.join()
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
        self._hashes[name] = write_tensors(self.path / f"{name}.safetensors", tensors)

    def load_weights(self, name: str) -> dict[str, Tensor]:
        """Read ``NAME.safetensors``."""
        return load_file(self.path / f"{name}.safetensors")

    def _hash(self, name: str) -> str:
        if name not in self._hashes:
            self._hashes[name] = sha256_of(self.path / f"{name}.safetensors")
        return self._hashes[name]

    def _folders(self) -> list[tuple[Place, Path]]:
        """Place and path of each checkpoint, oldest first."""
        if not self.path.is_dir():
            return []
        found = [(m, p) for p in self.path.iterdir() if (m := _NAME.match(p.name)) and p.is_dir()]
        return sorted(((int(m[1]), int(m[2]), m[3] is None), p) for m, p in found)

    def _prune(self, newest: Place) -> None:
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
        content = (folder / "state.json").read_bytes()
        head = json.loads(content)
        if json_bytes(_sealed({name: value for name, value in head.items() if name != "seal"})) != content:
            raise IntegrityError("state.json differs from its seal")
        needed = {self.path / f"{name}.safetensors": digest for name, digest in head["needs"].items()}
        for file, digest in {folder / "tensors.safetensors": head["sha256"], **needed}.items():
            if sha256_of(file) != digest:
                raise IntegrityError(f"{file.name} differs from its recorded sha256")
        tensors = load_file(folder / "tensors.safetensors")
        return Checkpoint(head["phase"], head["step"], _put_tensors(head["state"], tensors, device))


class _Writing(threading.Thread):
    """A write under way. It dies with the process: what it had written has not taken its name yet."""

    def __init__(self, write: Callable[[Mapping[str, Tensor]], None], copies: Mapping[str, Tensor]) -> None:
        super().__init__(name="zoo-checkpoint", daemon=True)
        self._job: tuple[Callable[[Mapping[str, Tensor]], None], Mapping[str, Tensor]] | None = (write, copies)
        self.error: BaseException | None = None
        self.start()

    @property
    def failed(self) -> bool:
        """Whether it is over, and not well."""
        return self.error is not None

    def run(self) -> None:
        """Write, and keep what is raised."""
        assert self._job is not None
        (write, copies), self._job = self._job, None
        try:
            write(copies)
        except BaseException as error:
            self.error = error


def _sealed(value: dict[str, Any]) -> dict[str, Any]:
    """The value with the sha256 of its own JSON: a flipped bit in a number is as bad as one in a tensor."""
    return {**value, "seal": hashlib.sha256(json_bytes(value)).hexdigest()}


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
        strides = odd_strides(value)
        return {"$tensor": name, "device": value.device.type, **({"strides": strides} if strides else {})}
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
            tensor = tensor.to(device) if device is not None and value["device"] != "cpu" else tensor
            return with_strides(tensor, value["strides"]) if "strides" in value else tensor
        if "$float" in value:
            return float(value["$float"])
        if "$map" in value:
            return {k: _put_tensors(v, tensors, device) for k, v in value["$map"]}
        return {k: _put_tensors(v, tensors, device) for k, v in value.items()}
    return [_put_tensors(v, tensors, device) for v in value] if isinstance(value, list) else value


def host_copy(tensor: Tensor) -> Tensor:
    """A copy of its own in the host's memory, contiguous."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def clone_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A detached copy of a state dict, on the same device."""
    with torch.no_grad():
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}
