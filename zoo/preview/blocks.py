"""Who learns, epoch by epoch: of each block of the backbone, the head and the auxiliary modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from zoo_registry import ParameterGroup

from zoo.assembly.model import under
from zoo.preview.report import BlockView

_REST = "(outside of blocks)"


class Watch:
    """Notes what learns in each epoch of one phase.

    Args:
        model: plain, before the phase is prepared.

    Attributes:
        epochs: the epochs seen.
        states: for each, a number that is equal where the same learns.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kept = dict(model.named_parameters())  # held, so that no other object gets one's id
        self._plain = {id(p) for p in self._kept.values()}
        self.epochs: list[int] = []
        self.states: list[int] = []
        self._first: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._norms: dict[str, bool] = {}
        self._seen: dict[frozenset[str], int] = {}

    def look(self, model: nn.Module, epoch: int) -> int:
        """Note the epoch that has just begun; the model is in training mode. Returns its state."""
        learning = [name for name, p in model.named_parameters() if p.requires_grad]
        for name in learning:
            self._first.setdefault(name, epoch)
            self._last[name] = epoch
        moving = []
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                self._norms[name] = self._norms.get(name, False) or module.training
                moving += [f"{name}()"] if module.training else []
        self.epochs.append(epoch)
        self.states.append(self._seen.setdefault(frozenset([*learning, *moving]), len(self._seen)))
        return self.states[-1]

    def parameters(self, model: nn.Module, started: int) -> dict[str, int]:
        """Totals of the phase; ``started`` is how many learned in its first epoch."""
        named = list(model.named_parameters())
        return {
            "total": sum(p.numel() for _, p in named),
            "trainable": sum(p.numel() for name, p in named if name in self._first),
            "trainable_at_start": started,
            "injected": sum(p.numel() for name, p in named if self._is_injected(name, p)),
        }

    def learning(self, model: nn.Module) -> list[nn.Parameter]:
        """The parameters that learn at any time."""
        return [p for name, p in model.named_parameters() if name in self._first]

    def blocks(self, model: Any, groups: Iterable[ParameterGroup]) -> tuple[BlockView, ...]:
        """A row for each block, stem first, then the head, then each auxiliary module."""
        settings = {id(p): (float(g["rate"]), float(g["decay"])) for g in groups for p in g["params"]}
        left, norms = dict(model.named_parameters()), dict(self._norms)
        rows = []
        for part, name, prefixes in _parts(model):
            inside = {n: left.pop(n) for n in list(left) if under(n, prefixes)}
            moves = [norms.pop(module) for module in list(norms) if under(module, prefixes)]
            if inside or moves or part == "head":
                rows.append(self._row(part, name, inside, moves, settings))
        return tuple(rows)

    def _row(
        self,
        part: str,
        name: str,
        inside: dict[str, nn.Parameter],
        moves: list[bool],
        settings: dict[int, tuple[float, float]],
    ) -> BlockView:
        learns = [n for n in inside if n in self._first]
        values = [settings[id(inside[n])] for n in learns if id(inside[n]) in settings]
        last = max((self._last[n] for n in learns), default=None)
        return BlockView(
            name=name,
            part=part,
            parameters=sum(p.numel() for p in inside.values()),
            trainable=sum(inside[n].numel() for n in learns),
            injected=0 if part == "auxiliary" else sum(p.numel() for n, p in inside.items() if self._is_injected(n, p)),
            from_epoch=min((self._first[n] for n in learns), default=None),
            until_epoch=last if last is not None and self.epochs and last < self.epochs[-1] else None,
            rate=_span(rate for rate, _ in values),
            decay=_span(decay for _, decay in values),
            norm_statistics=("move" if any(moves) else "rest") if moves else None,
        )

    def _is_injected(self, name: str, parameter: nn.Parameter) -> bool:
        return id(parameter) not in self._plain and name not in self._kept


def _parts(model: Any) -> list[tuple[str, str, tuple[str, ...]]]:
    """Part, name and prefixes of each row; the last of the backbone takes what no block has."""
    rows = [("backbone", name, tuple(prefixes)) for name, prefixes in model.blocks().items()]
    rows += [("backbone", _REST, ("backbone",)), ("head", "head", ("head",))]
    return rows + [("auxiliary", name, (f"auxiliary.{name}",)) for name in model.auxiliary]


def _span(values: Iterable[float]) -> tuple[float, float] | None:
    found = list(values)
    return (min(found), max(found)) if found else None
