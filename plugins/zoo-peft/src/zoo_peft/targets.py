"""Which linear layers of a backbone get an adapter. No pattern is asked of the user."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import nn
from zoo_registry import TransferModel, UsageError, ZooError


def published_module(backbone: nn.Module) -> nn.Module:
    """The module within ``backbone`` under whose names its weights are published; itself where it says nothing."""
    found = getattr(backbone, "published", None)
    return cast(nn.Module, found()) if callable(found) else backbone


def choose_layers(model: TransferModel, blocks: int | None, layers: Sequence[str], *, strategy: str) -> tuple[str, ...]:
    """Names, within :func:`published_module`, of the linear layers to adapt, in the order of the forward pass.

    They are those of the backbone's ``linear_layers()`` that compute ``x @ weight.T + bias`` with a weight of their
    own; others (weights shared by two layers, or computed) could not be merged.

    Args:
        model: a plain model.
        blocks: only those of the last so many blocks that hold any; None for all.
        layers: only those whose name, or the end of it, matches one of these shell patterns; none for all.
        strategy: its name, for errors.

    Raises:
        UsageError: none is left, or there are fewer blocks with linear layers than asked for.
    """
    backbone: Any = model.backbone
    host = published_module(backbone)
    modules = dict(backbone.named_modules(remove_duplicate=False))
    inside = {id(module): name for name, module in host.named_modules()}
    shared = _shared(backbone)
    known = [n for n in backbone.linear_layers() if id(modules[n]) in inside and _mergeable(modules[n], shared)]
    chosen = known if blocks is None else _of_last_blocks(model, known, blocks, strategy)
    names = [inside[id(modules[name])] for name in chosen]
    if layers:
        names = [name for name in names if any(_matches(name, pattern) for pattern in layers)]
    if not names:
        ends = dict.fromkeys(inside[id(modules[name])].rpartition(".")[2] for name in known)
        raise UsageError(
            f"strategy {strategy!r}: no linear layer of the backbone is left to adapt",
            hint=f"strategy.{strategy}.layers may name: {', '.join(ends)}" if ends else "take another strategy",
        )
    return tuple(names)


def exact_pattern(host: nn.Module, names: Sequence[str], *, dotted: bool = True) -> list[str] | str:
    """What peft must be told so that it takes exactly these modules.

    peft also takes modules whose name ends with a listed one; where that would add any, a regular expression is given
    in place of the list.

    Args:
        host: the module that peft works on.
        names: of modules in it.
        dotted: whether the end must follow a dot; peft does not ask that for IA3's feed-forward layers.
    """
    wanted = set(names)
    suffixes = tuple(("." if dotted else "") + name for name in names)
    if any(name not in wanted and name.endswith(suffixes) for name, _ in host.named_modules() if suffixes):
        return "|".join(re.escape(name) for name in sorted(wanted))
    return sorted(wanted)


def linear_layer(host: nn.Module, name: str) -> nn.Linear:
    """The linear layer ``name``.

    Raises:
        ZooError: there is none.
    """
    try:
        module = host.get_submodule(name)
    except AttributeError:
        module = None
    if not isinstance(module, nn.Linear):
        raise ZooError(
            f"the backbone has no linear layer {name!r}", hint="is this another backbone than the adapter's?"
        )
    return module


def _shared(backbone: nn.Module) -> set[int]:
    """Ids of the modules and parameters that stand at more than one place."""
    modules = Counter(id(module) for _, module in backbone.named_modules(remove_duplicate=False))
    parameters = Counter(id(parameter) for _, parameter in backbone.named_parameters(remove_duplicate=False))
    return {i for counted in (modules, parameters) for i, count in counted.items() if count > 1}


def _mergeable(layer: nn.Module, shared: Iterable[int]) -> bool:
    """Whether the layer is linear in a weight that is a parameter of its own."""
    weight = layer._parameters.get("weight")
    if not isinstance(layer, nn.Linear) or weight is None or {id(layer), id(weight), id(layer.bias)} & set(shared):
        return False
    probe = torch.linspace(-1, 1, 2 * layer.in_features, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        x = probe.reshape(2, layer.in_features)
        return torch.allclose(layer(x), nn.functional.linear(x, weight, layer.bias), rtol=1e-3, atol=1e-5)


def _of_last_blocks(model: TransferModel, names: Sequence[str], count: int, strategy: str) -> list[str]:
    """Those of the layers that lie in the last ``count`` blocks with any of them."""
    held = {
        block: [n for n in names if any(_under(f"backbone.{n}.weight", p) for p in prefixes)]
        for block, prefixes in model.blocks().items()
    }
    holding = [block for block, layers in held.items() if layers]
    if count > len(holding):
        raise UsageError(
            f"strategy {strategy!r}: blocks={count}, but {len(holding)} blocks of the backbone hold linear layers",
            hint=f"take at most {len(holding)}, or leave it out for all",
        )
    wanted = {name for block in holding[-count:] for name in held[block]}
    return [name for name in names if name in wanted]


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
