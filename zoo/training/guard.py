"""The proof that frozen means bit-identical, and that what should learn got a gradient."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from zoo_registry import ZooError


def tensor_hash(tensor: Tensor) -> str:
    """Hex sha256 of a tensor's dtype, shape and bytes."""
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype}{tuple(plain.shape)}".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b"")
    return digest.hexdigest()


def hash_tensors(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Name -> hash."""
    return {name: tensor_hash(tensor) for name, tensor in tensors.items()}


class Guard:
    """Watches one phase.

    Attributes:
        before: hash of every tensor of backbone and head when the phase's first step was about to run.
        moved: names that were allowed to change at any time.
        waiting: names of trainable parameters that have not yet got a gradient.
    """

    def __init__(self, model: nn.Module) -> None:
        self.before = hash_tensors({n: t for n, t in model.state_dict().items() if not n.startswith("auxiliary.")})
        self.moved: set[str] = set()
        self.seen: set[str] = set()
        self.waiting: set[str] = set()

    def begin_epoch(self, model: nn.Module, grouped: set[int]) -> None:
        """Note what may change now; everything trainable must lie in a parameter group.

        Raises:
            ZooError: a trainable parameter is in no group and would silently never move.
        """
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if id(parameter) not in grouped:
                raise ZooError(f"{name!r} is trainable but in no parameter group", hint="a strategy forgot it")
            self.moved.add(name)
            if name not in self.seen:
                self.waiting.add(name)
        for module_name, module in model.named_modules():
            if module.training:
                prefix = f"{module_name}." if module_name else ""
                self.moved |= {prefix + name for name, _ in module.named_buffers(recurse=False)}

    def after_backward(self, model: nn.Module) -> None:
        """Note which parameters got a gradient; free once all have."""
        if self.waiting:
            got = {n for n, p in model.named_parameters() if n in self.waiting and p.grad is not None}
            self.seen |= got
            self.waiting -= got

    def finish(self, model: nn.Module, *, unused: Iterable[str], where: str) -> dict[str, Any]:
        """Compare with the phase's start.

        Args:
            model: at the phase's end, before anything is merged.
            unused: parameters that no forward pass reaches whatever is frozen; they cannot get a gradient.
            where: the phase in words.

        Returns:
            The record for the run: how many tensors were frozen, and one hash over all of them.

        Raises:
            ZooError: a frozen tensor changed, or a trainable one never got a gradient.
        """
        state = model.state_dict()
        frozen = [name for name in self.before if name not in self.moved and name in state]
        changed = [name for name in frozen if tensor_hash(state[name]) != self.before[name]]
        if changed:
            raise ZooError(
                f"{where}: {len(changed)} frozen tensors changed, the first is {changed[0]!r}",
                hint="a strategy writes to weights that it should leave alone",
            )
        dead = sorted(self.waiting - set(unused))
        if dead:
            raise ZooError(
                f"{where}: {len(dead)} trainable tensors never got a gradient, the first is {dead[0]!r}",
                hint="freeze it, or let the loss depend on it",
            )
        joined = hashlib.sha256("".join(f"{n}{self.before[n]}" for n in sorted(frozen)).encode()).hexdigest()
        return {"frozen_tensors": len(frozen), "moved_tensors": len(self.moved), "frozen_sha256": joined}

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"before": self.before, "moved": sorted(self.moved), "seen": sorted(self.seen)}

    def load(self, state: Mapping[str, Any]) -> None:
        """From the checkpoint."""
        self.before = dict(state["before"])
        self.moved = set(state["moved"])
        self.seen = set(state["seen"])
        self.waiting = {name for name in self.waiting if name not in self.seen}
