"""Ordered blocks of a timm model: from the stem to the last, together covering every parameter exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn


def group_blocks(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Block name -> parameter-name prefixes (``"layer1.0"`` stands for ``layer1.0.*``, ``"cls_token"`` for itself).

    The order is that of timm's ``group_matcher``, which its layer-wise learning rates use too. A model that has none,
    or one that raises, falls back to the order of registration: every top-level module is a block, every child of a
    top-level ``Sequential`` or ``ModuleList`` is one of its own, and bare parameters belong to the stem. Parameters
    that the matcher leaves out join the block of the parameter before them.
    """
    names = [name for name, _ in model.named_parameters()]
    groups = _matched(model, names) or _registered(model, names)
    owner = {name: index for index, members in enumerate(groups) for name in members}
    _adopt(names, owner)
    members: list[list[str]] = [[n for n in names if owner[n] == index] for index in range(len(groups))]
    prefixes = [_shorten(group, owner, index) for index, group in enumerate(members) if group]
    return _named(prefixes)


def _matched(model: nn.Module, names: Sequence[str]) -> list[list[str]]:
    from timm.models import group_parameters

    matcher: Callable[..., Any] | None = getattr(model, "group_matcher", None)
    if matcher is None:
        return []
    try:
        grouped: Mapping[int, list[str]] = group_parameters(model, matcher(coarse=False))
    except Exception:  # a third party's matcher may fail in any way; the fallback is always right
        return []
    known = set(names)
    groups = [[n for n in grouped[key] if n in known] for key in sorted(grouped)]
    return [group for group in groups if group]


def _registered(model: nn.Module, names: Iterable[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    bare: list[str] = []
    for name in names:
        first, _, rest = name.partition(".")
        if not rest:
            bare.append(name)
            continue
        container = isinstance(getattr(model, first), nn.Sequential | nn.ModuleList)
        child = rest.partition(".")[0]
        groups.setdefault(f"{first}.{child}" if container else first, []).append(name)
    ordered = list(groups.values())
    return [[*bare, *ordered[0]], *ordered[1:]] if ordered else [bare]


def _adopt(names: Sequence[str], owner: dict[str, int]) -> None:
    last = 0
    for name in names:
        last = owner.setdefault(name, last)


def _shorten(group: Sequence[str], owner: Mapping[str, int], index: int) -> tuple[str, ...]:
    """The shortest prefixes that cover ``group`` and no parameter of another block."""
    foreign = {prefix for name, other in owner.items() if other != index for prefix in _ancestors(name)}
    chosen = [next((p for p in _ancestors(name) if p not in foreign), name) for name in group]
    return tuple(dict.fromkeys(chosen))


def _ancestors(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _named(prefixes: Sequence[tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    named: dict[str, tuple[str, ...]] = {}
    for index, group in enumerate(prefixes):
        name = "stem" if index == 0 else _common(group)
        named[name if name not in named else f"{name}-{index}"] = group
    return named


def _common(group: Sequence[str]) -> str:
    """What the prefixes share (``layers.3``), else the one that is longest in use: the first."""
    shared = [p for p in _ancestors(group[0]) if all(q == p or q.startswith(p + ".") for q in group)]
    return shared[-1] if shared else group[0]
