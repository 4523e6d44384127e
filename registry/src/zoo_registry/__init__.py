"""The contract of the zoo: hooks, specs, discovery and the ``Strategy`` base class. Imports no torch."""

from __future__ import annotations

from zoo_registry.building import Classifier, Column, Delta, Exported, LoadReport
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
    HeadSpec,
    Paper,
    PluginInfo,
    StrategySpec,
    Stream,
    Weights,
)
from zoo_registry.strategy import Batch, Losses, ParameterGroup, Pass, Run, Strategy, TransferModel

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
    "Registry",
    "Run",
    "RunStoppedError",
    "Strategy",
    "StrategySpec",
    "Stream",
    "TextInput",
    "TransferModel",
    "UnknownNameError",
    "UsageError",
    "Weights",
    "ZooError",
    "discover",
    "hookimpl",
    "option",
]
