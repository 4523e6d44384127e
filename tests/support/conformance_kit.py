"""A plugin ``kit`` around the conformance kit's own tiny parts, to be changed for the worse by tests."""

from __future__ import annotations

import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from zoo_registry import Registry
from zoo_registry.conformance import iterate_checks, run_check
from zoo_registry.discovery import Selection, discover

BASE = """
import dataclasses
from dataclasses import dataclass
from zoo_registry import BackboneSpec, HeadSpec, ImageInput, StrategySpec, Weights, hookimpl, option

HERE = __name__ + "_parts"

def backbone(**changes):
    values = dict(name="net", summary="the kit's own tiny backbone", factory=HERE + ":build_backbone",
        input=ImageInput(size=(16, 16)), features={"pooled": 16, "map": 16, "tokens": 16, "pyramid": (8, 16)},
        capabilities=frozenset({"blocks", "linear_layers", "intermediates", "insert_tokens", "encode_text"}))
    return BackboneSpec(**{**values, **changes})

def head(**changes):
    values = dict(name="top", summary="the kit's own tiny head", factory=HERE + ":build_head")
    return HeadSpec(**{**values, **changes})

def strategy(**changes):
    values = dict(name="way", summary="everything learns", factory=HERE + ":build_strategy",
        touches=frozenset({"backbone"}))
    return StrategySpec(**{**values, **changes})

@hookimpl
def zoo_backbones():
    return [backbone()]

@hookimpl
def zoo_heads():
    return [head()]

@hookimpl
def zoo_strategies():
    return [strategy()]
"""

PARTS = """
import torch
from torch import nn
from zoo_registry import Exported, LoadReport, Strategy
from zoo_registry.conformance.tiny import TinyBackbone, TinyHead

class Backbone(TinyBackbone):
    def export(self, classifier, labels, input):
        return Exported(config={}, tensors=self.state_dict())

class Head(TinyHead):
    pass

class Way(Strategy):
    pass

def build_backbone(spec, options, *, input, features, weights, device, dtype):
    module = Backbone(features)
    if weights is not None:
        from safetensors.torch import load_file
        tensors = load_file(weights)
        module.load_state_dict(tensors)
        module.load_report = LoadReport(loaded=len(tensors))
    return module

def build_head(spec, options, *, width, targets):
    return Head(width, targets)

def build_strategy(spec, options):
    return Way()
"""


class Kit:
    """A plugin ``kit`` of the parts above, with changes in its two modules."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def registry(self, *, base: str = "", parts: str = "") -> Registry:
        self.count += 1
        name = f"kit_{self.folder.name.replace('-', '_')}_{self.count}"
        (self.folder / f"{name}.py").write_text(BASE + textwrap.dedent(base))
        (self.folder / f"{name}_parts.py").write_text(PARTS + textwrap.dedent(parts))
        registry = Registry(discover([EntryPoint("kit", name, "zoo")], Selection(None, {})))
        assert not registry.problems, registry.problems
        return registry

    def failures(self, kind: str, only: str | None = None, **changes: str) -> dict[str, str]:
        """Failed check -> message, of all checks or of one."""
        checks = list(iterate_checks(self.registry(**changes), "kit", kind))
        assert only is None or only in [check.name for check in checks]
        outcomes = [run_check(check) for check in checks if only in (None, check.name)]
        return {outcome.check.name: outcome.message for outcome in outcomes if not outcome.good}


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kit:
    monkeypatch.syspath_prepend(tmp_path)
    return Kit(tmp_path)
