"""The contract of the zoo: hooks, specs, discovery and the ``Strategy`` base class. Imports no torch.

The names below are imported on first use: a plugin's specs need neither the discovery nor the factories' types.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_registry.building import Classifier, Column, Delta, Exported, Foreign, LoadReport
    from zoo_registry.discovery import Plugin, Problem, discover
    from zoo_registry.errors import (
        AmbiguousNameError,
        ConflictError,
        DataError,
        HubError,
        IntegrityError,
        PluginError,
        RunStoppedError,
        UnknownNameError,
        UsageError,
        ZooError,
    )
    from zoo_registry.hooks import hookimpl
    from zoo_registry.inputs import AudioInput, ImageInput, Input, TextInput
    from zoo_registry.options import NoOptions, option
    from zoo_registry.registry import Entry, Registry
    from zoo_registry.specs import (
        CONTRACT_VERSION,
        BackboneSpec,
        Defaults,
        Fact,
        FormatSpec,
        HeadSpec,
        Paper,
        PluginInfo,
        RecipePhase,
        RecipeSpec,
        StrategySpec,
        Stream,
        TrackerSpec,
        Weights,
    )
    from zoo_registry.strategy import Batch, Losses, ParameterGroup, Pass, Run, Strategy, TransferModel
    from zoo_registry.tracking import TrackedRun, Tracker

__all__ = [
    "CONTRACT_VERSION",
    "AmbiguousNameError",
    "AudioInput",
    "BackboneSpec",
    "Batch",
    "Classifier",
    "Column",
    "ConflictError",
    "DataError",
    "Defaults",
    "Delta",
    "Entry",
    "Exported",
    "Fact",
    "Foreign",
    "FormatSpec",
    "HeadSpec",
    "HubError",
    "ImageInput",
    "Input",
    "IntegrityError",
    "LoadReport",
    "Losses",
    "NoOptions",
    "Paper",
    "ParameterGroup",
    "Pass",
    "Plugin",
    "PluginError",
    "PluginInfo",
    "Problem",
    "RecipePhase",
    "RecipeSpec",
    "Registry",
    "Run",
    "RunStoppedError",
    "Strategy",
    "StrategySpec",
    "Stream",
    "TextInput",
    "TrackedRun",
    "Tracker",
    "TrackerSpec",
    "TransferModel",
    "UnknownNameError",
    "UsageError",
    "Weights",
    "ZooError",
    "discover",
    "hookimpl",
    "option",
]

_HOMES = {
    "zoo_registry.building": (
        "Classifier",
        "Column",
        "Delta",
        "Exported",
        "Foreign",
        "LoadReport",
    ),
    "zoo_registry.discovery": (
        "Plugin",
        "Problem",
        "discover",
    ),
    "zoo_registry.errors": (
        "AmbiguousNameError",
        "ConflictError",
        "DataError",
        "HubError",
        "IntegrityError",
        "PluginError",
        "RunStoppedError",
        "UnknownNameError",
        "UsageError",
        "ZooError",
    ),
    "zoo_registry.hooks": ("hookimpl",),
    "zoo_registry.inputs": (
        "AudioInput",
        "ImageInput",
        "Input",
        "TextInput",
    ),
    "zoo_registry.options": (
        "NoOptions",
        "option",
    ),
    "zoo_registry.registry": (
        "Entry",
        "Registry",
    ),
    "zoo_registry.specs": (
        "CONTRACT_VERSION",
        "BackboneSpec",
        "Defaults",
        "Fact",
        "FormatSpec",
        "HeadSpec",
        "Paper",
        "PluginInfo",
        "RecipePhase",
        "RecipeSpec",
        "StrategySpec",
        "Stream",
        "TrackerSpec",
        "Weights",
    ),
    "zoo_registry.strategy": (
        "Batch",
        "Losses",
        "ParameterGroup",
        "Pass",
        "Run",
        "Strategy",
        "TransferModel",
    ),
    "zoo_registry.tracking": (
        "TrackedRun",
        "Tracker",
    ),
}

_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module 'zoo_registry' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
