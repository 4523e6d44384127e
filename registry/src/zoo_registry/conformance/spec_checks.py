"""Checks of the spec itself; they need no torch."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from zoo_registry.inputs import ImageInput
from zoo_registry.options import OptionInfo, describe_options, load_schema, options_to_dict, parse_options
from zoo_registry.registry import Entry
from zoo_registry.specs import CAPABILITIES, FEATURE_KINDS, BackboneSpec, HeadSpec, NamedSpec, Spec, StrategySpec

HEAVY = ("torch", "torchvision", "timm", "transformers", "peft", "tensorflow", "jax", "tensorboard", "wandb", "mlflow")
"""Libraries that listing must not import."""

KEYWORDS = {
    "backbone": ("input", "features", "weights", "device", "dtype"),
    "head": ("width", "targets"),
    "strategy": (),
    "tracker": (),
    "format": ("files", "shapes"),
}
"""Kind -> keyword arguments of its factory, after ``spec`` and ``options``."""

_PROBE = """
import json, sys
namespace, value, path, heavy = json.loads(sys.argv[1])
sys.path[:] = path
from importlib.metadata import EntryPoint
from zoo_registry.discovery import Selection, discover
[plugin] = discover([EntryPoint(namespace, value, "zoo")], Selection(None, {}))
print(json.dumps([plugin.status, str(plugin.problem), [name for name in heavy if name in sys.modules]]))
"""


def require(condition: Any, message: str) -> None:
    """Raise an AssertionError with ``message`` unless ``condition``."""
    if not condition:
        raise AssertionError(message)


def applicable(entry: Entry[NamedSpec]) -> Iterator[Any]:
    """The checks of this module that apply to the entry."""
    yield module_imports_without_torch
    yield spec_is_complete
    if isinstance(entry.spec, Spec):
        yield factory_can_be_imported


def module_imports_without_torch(entry: Entry[NamedSpec]) -> None:
    """Importing the plugin and calling its hooks, in a fresh process, imports none of :data:`HEAVY`."""
    status, problem, heavy = _imported(entry.namespace, entry.plugin.module)
    require(status == "ok", problem)
    names = ", ".join(heavy)
    require(not heavy, f"importing {entry.plugin.module!r} imports {names}; leave that to the factory's module")


@functools.cache
def _imported(namespace: str, module: str) -> tuple[str, str, list[str]]:
    """Status, problem and heavy libraries of a plugin that is loaded in a fresh process."""
    arguments = json.dumps([namespace, module, sys.path, HEAVY])
    done = subprocess.run([sys.executable, "-c", _PROBE, arguments], capture_output=True, text=True, check=False)
    require(done.returncode == 0, f"importing {module!r} in a fresh process failed: {done.stderr[-300:]}")
    status, problem, heavy = json.loads(done.stdout.splitlines()[-1])
    return status, problem, heavy


def spec_is_complete(entry: Entry[NamedSpec]) -> None:
    """A summary for a person; options that are frozen, defaulted, explained and in range; facts that make sense."""
    spec = entry.spec
    require(10 <= len(spec.summary) <= 120, f"the summary has {len(spec.summary)} characters, not 10 to 120")
    if not isinstance(spec, Spec):
        return
    require(getattr(load_schema(spec.options), "__dataclass_params__").frozen, "the options dataclass is not frozen")  # noqa: B009
    for option in describe_options(spec.options):
        _option_is_complete(option)
    built = load_schema(spec.options)()
    again = parse_options(spec.options, options_to_dict(built), where="options")
    require(again == built, f"default options do not survive parsing: {built} became {again}")
    parse_options(spec.options, spec.example, where="example")
    if isinstance(spec, BackboneSpec):
        _backbone_is_complete(spec)
    if isinstance(spec, HeadSpec):
        require(spec.tasks, "a head serves at least one task")
        require(set(spec.features) <= set(FEATURE_KINDS), f"unknown kind of features in {spec.features}")
    if isinstance(spec, HeadSpec | StrategySpec):
        require(spec.needs <= CAPABILITIES.keys(), f"unknown capability in {sorted(spec.needs)}")


def _option_is_complete(option: OptionInfo) -> None:
    require(option.default is not dataclasses.MISSING, f"option {option.name!r} has no default")
    require(option.help, f"option {option.name!r} has no help text")


def _backbone_is_complete(spec: BackboneSpec) -> None:
    for kind, width in spec.features.items():
        widths = width if kind == "pyramid" and isinstance(width, tuple) else (width,)
        require(all(isinstance(w, int) and w > 0 for w in widths), f"width {width!r} of the {kind} features")
    if isinstance(spec.input, ImageInput):
        same = len(spec.input.mean) == len(spec.input.std) == spec.input.channels
        require(same, f"{spec.input.channels} channels, {len(spec.input.mean)} means, {len(spec.input.std)} deviations")
    weights = spec.weights
    if weights is not None and weights.where == "package":
        require(weights.package and weights.sha256, "weights in a package need the package's name and a sha256")
    if weights is not None and weights.where == "hub":
        require(weights.file.endswith(".safetensors"), f"weights file {weights.file!r} is no safetensors file")


def factory_can_be_imported(entry: Entry[Spec]) -> None:
    """The reference leads to a callable that takes what the contract passes."""
    factory: Any = entry.factory()
    try:
        inspect.signature(factory).bind(
            entry.spec, load_schema(entry.spec.options)(), **dict.fromkeys(KEYWORDS[entry.kind])
        )
    except TypeError as error:
        wanted = ", ".join(("spec", "options", *(f"{name}=" for name in KEYWORDS[entry.kind])))
        raise AssertionError(f"{entry.spec.factory} does not take ({wanted}): {error}") from error
