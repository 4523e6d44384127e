"""Runs that leave something small behind, and a plugin ``small`` on disk with strategies that do so in odd ways.

``pytest_plugins = ["small_forms"]`` in a conftest makes the fixtures known.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_plugins import add_distribution
from zoo_runs import done

HOOKS = """
from zoo_registry import StrategySpec, hookimpl

def strategy(name, **values):
    return StrategySpec(name=name, summary=f"{name}, for tests", factory="small_parts:" + name, **values)

@hookimpl
def zoo_strategies():
    touched = {"touches": frozenset({"backbone"})}
    return [
        strategy("shift", merges=False, **touched),
        strategy("liar", merges=False, **touched),
        strategy("silent", merges=False, **touched),
        strategy("shrink", role="averaging", **touched),
        strategy("deaf", **touched),
    ]
"""

PARTS = """
import torch
from torch import nn
from zoo_registry import Delta, Strategy

def add_shift(model, shift):
    model.backbone.register_forward_hook(lambda module, given, features: features + shift)

class Shift(Strategy):
    '''The backbone is frozen; a vector that is added to its features learns, and cannot be merged.'''
    def prepare(self, model, run):
        model.freeze()
        self.shift = nn.Parameter(torch.ones(next(iter(model.head.parameters())).shape[1], device=run.device))
        model.auxiliary["shift"] = nn.ParameterList([self.shift])
        add_shift(model, self.shift)
    def delta(self, model):
        return Delta(method="shift", tensors={"shift": self.shift}, config={"width": len(self.shift)})
    def apply(self, model, delta):
        if delta.config["width"] != len(delta.tensors["shift"]):
            raise ValueError("widths differ")
        add_shift(model, delta.tensors["shift"])

class Liar(Shift):
    def apply(self, model, delta):
        add_shift(model, 2 * delta.tensors["shift"])

class Silent(Shift):
    def delta(self, model):
        return None

class Shrink(Strategy):
    '''Changes the weights after everybody else's finish.'''
    def finish(self, model, run):
        with torch.no_grad():
            for parameter in model.backbone.parameters():
                parameter *= 0.9

class Deaf(Strategy):
    '''Has a delta, and no apply.'''
    def delta(self, model):
        return Delta(method="deaf", tensors={"x": torch.ones(2)})

def shift(spec, options):
    return Shift()
def liar(spec, options):
    return Liar()
def silent(spec, options):
    return Silent()
def shrink(spec, options):
    return Shrink()
def deaf(spec, options):
    return Deaf()
"""

LORA = "linear:1,peft/lora:2"
RANK = ("--set", "strategy.lora.rank=8")
TAG = "timm/test_vit.r160_in1k"


def install_small(folder: Path) -> Path:
    """The plugin ``small``, distribution ``zoo-small``; put the folder on the path and it is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    add_distribution(folder, "small", HOOKS)
    (folder / "small_parts.py").write_text(PARTS)
    return folder


def train(photos: Path, out: Path, strategy: str, *more: object, backbone: str = "starter/vit") -> Path:
    """A run of a few steps; its folder."""
    done("finetune", photos, "--backbone", backbone, "--strategy", strategy, "--batch-size", 16, *more, "--out", out)
    return out


def put_base(hub: Path, folder: Path) -> Path:
    """Random weights of :data:`TAG` where timm keeps its own, on a folder hub; the weights file."""
    import timm
    from timm.models import save_for_hf

    from zoo.hub.folder import FolderHub

    torch.manual_seed(5)
    save_for_hf(timm.create_model(TAG.removeprefix("timm/")), folder, safe_serialization=True)
    FolderHub(hub).push(folder, TAG, message="weights")
    return folder / "model.safetensors"


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the plugin ``small`` lies, not installed."""
    return install_small(tmp_path_factory.mktemp("plugins") / "small")


@pytest.fixture
def small_plugin(small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plugin ``small``, installed here and in child processes."""
    monkeypatch.syspath_prepend(small_folder)
    monkeypatch.setenv("PYTHONPATH", str(small_folder))
    return small_folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone, here and in child processes."""
    from huggingface_hub import constants

    home = tmp_path / "home"
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setenv("HF_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def lora_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the small ViT: a linear probe, then LoRA; for reading only."""
    return train(photos, tmp_path_factory.mktemp("runs") / "lora", LORA, *RANK)


@pytest.fixture(scope="session")
def shifted_run(photos: Path, small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose result does not merge; for reading only, and with :func:`small_plugin` alone."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(small_folder)
        return train(photos, tmp_path_factory.mktemp("runs") / "shifted", "linear:1,small/shift:2")


@pytest.fixture
def shifted(shifted_run: Path, tmp_path: Path, small_plugin: Path) -> Path:
    """A copy of its bundle to spoil, the plugin that it needs being installed."""
    return Path(shutil.copytree(shifted_run / "model", tmp_path / "shifted"))


@pytest.fixture(scope="session")
def probe_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the small CNN of which the head alone learned; for reading only."""
    return train(photos, tmp_path_factory.mktemp("runs") / "probe", "linear:2", backbone="starter/cnn")


@pytest.fixture
def own_lora(lora_run: Path, tmp_path: Path) -> Path:
    """A copy of the LoRA run's bundle to spoil."""
    return Path(shutil.copytree(lora_run / "model", tmp_path / "lora"))


def logits(bundle: Path, registry: Any = None) -> torch.Tensor:
    """The loaded bundle's outputs for the golden inputs."""
    from zoo_registry import Registry

    from zoo.bundle.golden import golden_inputs
    from zoo.bundle.read import load_bundle

    loaded = load_bundle(bundle, registry or Registry())
    with torch.no_grad():
        return loaded.model.predict(golden_inputs(loaded.input))["label"]
