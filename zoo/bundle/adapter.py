"""``adapter/``: a strategy's delta on disk, in the method's own layout, and back onto a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from zoo_registry import Delta, Entry, IntegrityError, PluginError, Registry, StrategySpec, ZooError

from zoo.assembly.model import TransferModel
from zoo.bundle.document import DOCUMENT, Document
from zoo.bundle.parts import find_entry, parsed_options
from zoo.bundle.small import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from zoo.files import write_json, write_tensors
from zoo.hub.files import read_json


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What goes into ``adapter/``.

    Attributes:
        entry, options: the strategy that made it.
        delta: its tensors and configuration.
        plain: None where the weights hold it already; else the trained model without it, on the CPU.
        applied: ``plain`` with it.
    """

    entry: Entry[StrategySpec]
    options: Any
    delta: Delta
    plain: TransferModel | None = None
    applied: TransferModel | None = None


def write_adapter(folder: Path, delta: Delta) -> None:
    """Write a delta's tensors and config into ``folder/adapter``."""
    (folder / ADAPTER_WEIGHTS).parent.mkdir()
    write_tensors(folder / ADAPTER_WEIGHTS, delta.tensors, {"format": "pt"})
    write_json(folder / ADAPTER_CONFIG, dict(delta.config))


def read_adapter_files(
    document: Document, folder: Path, files: frozenset[str], where: str, device: torch.device | str = "cpu"
) -> Delta:
    """The delta in ``folder/adapter``.

    Raises:
        IntegrityError: a file is missing or not what it should be.
    """
    assert document.adapter is not None
    for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
        if name not in files:
            raise IntegrityError(f"{where} has no {name}, which its {DOCUMENT} speaks of", hint="pull it again")
    config = read_json(folder / ADAPTER_CONFIG, f"{where}: {ADAPTER_CONFIG}")
    if not isinstance(config, Mapping):
        raise IntegrityError(f"{where}: {ADAPTER_CONFIG} is no JSON object")
    try:
        tensors = load_file(folder / ADAPTER_WEIGHTS, device=str(device))
    except Exception as error:
        raise IntegrityError(f"{where}: {ADAPTER_WEIGHTS} is no safetensors file: {error}") from error
    bad = next((n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())), None)
    if bad is not None:
        raise IntegrityError(f"{where}: tensor {bad!r} of the adapter has NaN or Inf values")
    return Delta(method=document.adapter.method, tensors=tensors, config=config)


def build_strategy(document: Document, registry: Registry, where: str) -> Any:
    """The strategy whose ``apply`` knows the adapter.

    Raises:
        PluginError: its plugin is not installed, or broken; the hint is the ``pip install`` line.
        IntegrityError: its options are not what the plugin takes.
    """
    assert document.adapter is not None
    entry = find_entry(registry, document, "strategy", document.adapter.strategy)
    options = parsed_options(entry, document.adapter.options, "adapter", where)
    factory: Any = entry.factory()
    return factory(entry.spec, options)


def apply_adapter(strategy: Any, model: TransferModel, delta: Delta, where: str) -> None:
    """``strategy.apply(model, delta)``; what fails in it is a fault of the bundle.

    Raises:
        IntegrityError: the delta does not fit the model.
        PluginError: the strategy has no ``apply``.
    """
    try:
        strategy.apply(model, delta)
    except (IntegrityError, PluginError):
        raise
    except NotImplementedError as error:
        raise PluginError(f"{where}: {type(strategy).__name__} has no apply()", hint="a newer plugin has it") from error
    except ZooError as error:
        raise IntegrityError(f"{where}: the adapter cannot be applied: {error.message}", hint=error.hint) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise IntegrityError(f"{where}: the adapter cannot be applied: {type(error).__name__}: {reason}") from error
