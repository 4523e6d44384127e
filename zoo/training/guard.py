"""The proof that frozen means bit-identical, and that what should learn got a gradient."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from zoo_registry import ZooError

PROBES = 8
"""Steps of an epoch in which gradients of data and penalties are told apart, while something waits for one."""


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

    Args:
        model: prepared for the phase.
        before: what the hashes of its tensors were, where a checkpoint knows.

    Attributes:
        before: hash of every tensor of backbone and head when the phase's first step was about to run.
        moved: names that were allowed to change at any time.
        seen: names of parameters that got a gradient.
        waiting: names of trainable parameters that have not yet got one.
    """

    def __init__(self, model: nn.Module, before: Mapping[str, str] | None = None) -> None:
        tensors = {n: t for n, t in model.state_dict().items() if not _auxiliary(n)}
        self.before = dict(before) if before is not None else hash_tensors(tensors)
        self.moved: set[str] = set()
        self.seen: set[str] = set()
        self.waiting: set[str] = set()
        self._probes = PROBES

    def begin_epoch(self, model: nn.Module, grouped: set[int], *, anew: bool = True) -> None:
        """Note what may change now; everything trainable must lie in a parameter group.

        Args:
            model: prepared for the phase.
            grouped: ids of the parameters that lie in a group.
            anew: the epoch begins; else it goes on after a resume.

        Raises:
            ZooError: a trainable parameter is in no group and would silently never move.
        """
        self._probes = PROBES if anew else self._probes
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if id(parameter) not in grouped:
                raise ZooError(
                    f"{name!r} is trainable but in no parameter group, so it would never move",
                    hint="the strategy that owns the rates must list every parameter that may train in the phase",
                )
            self.moved.add(name)
            if name not in self.seen:
                self.waiting.add(name)
        for module_name, module in model.named_modules():
            if module.training:
                prefix = f"{module_name}." if module_name else ""
                self.moved |= {prefix + name for name, _ in module.named_buffers(recurse=False)}

    def moving(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the tensors that may have changed since the phase's first step."""
        return {name: t for name, t in tensors.items() if name in self.moved or name not in self.before}

    def probe(self, model: nn.Module, data_loss: Tensor) -> None:
        """Note which parameters the losses of the data reach, apart from penalties, which may reach any (L2-SP).

        Gradients and random state stay as they are.
        """
        if not self.waiting or not self._probes or not data_loss.requires_grad:
            return
        named = {n: p for n, p in model.named_parameters() if n in self.waiting and p.requires_grad}
        found = torch.autograd.grad(data_loss, list(named.values()), retain_graph=True, allow_unused=True)
        self._got(name for name, gradient in zip(named, found, strict=True) if gradient is not None)

    def after_backward(self, model: nn.Module, *, penalised: bool) -> None:
        """Note which parameters have a gradient; with penalties that says something of auxiliary ones alone.

        Free once all have got one.
        """
        self._probes = max(0, self._probes - 1)
        if self.waiting:
            have = [n for n, p in model.named_parameters() if n in self.waiting and p.grad is not None]
            self._got(name for name in have if not penalised or _auxiliary(name))

    def _got(self, names: Iterable[str]) -> None:
        self.seen |= set(names)
        self.waiting -= self.seen

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
        frozen = [name for name in self.before if name not in self.moved]
        changed = [name for name in frozen if name not in state or tensor_hash(state[name]) != self.before[name]]
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
        names = {"moved": sorted(self.moved), "seen": sorted(self.seen), "waiting": sorted(self.waiting)}
        return {"before": self.before, "probes": self._probes, **names}

    def load(self, state: Mapping[str, Any]) -> None:
        """From the checkpoint."""
        self._probes = int(state["probes"])
        self.moved, self.seen, self.waiting = (set(state[name]) for name in ("moved", "seen", "waiting"))


def refuse_foreign(start: Mapping[str, Tensor], model: nn.Module, *, where: str) -> None:
    """After a phase the model must have the tensors that it started with.

    Raises:
        ZooError: names those that were left behind or are gone.
    """
    foreign = sorted(set(start) ^ set(model.state_dict()))
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise ZooError(
            f"{where} left the model with other tensors than a plain one: {', '.join(foreign[:3])}{more}",
            hint="the strategy's finish() must merge what it injected",
        )


def _auxiliary(name: str) -> bool:
    return name.startswith("auxiliary.")
