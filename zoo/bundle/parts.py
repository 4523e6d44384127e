"""Parts of a bundle: entries that its names mean, modules built of its values, shapes of its tensors. Faults are named.

What a plugin says of values out of a bundle is a fault of the bundle, not of the user.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn
from zoo_registry import IntegrityError, PluginError, Registry
from zoo_registry.errors import UnknownNameError, ZooError
from zoo_registry.options import parse_options

from zoo.bundle.document import Document


def find_entry(registry: Registry, document: Document, kind: str, name: str) -> Any:
    """The registry's entry for a name that ``zoo.json`` holds.

    Raises:
        PluginError: nothing installed answers to it; the hint is the ``pip install`` line.
    """
    try:
        return registry.find(kind, name)
    except UnknownNameError as error:
        namespace = name.partition("/")[0]
        record = next((p for p in document.plugins if p.namespace == namespace), None)
        there = any(p.namespace == namespace and p.status == "ok" for p in registry.plugins)
        why = (
            f"is not offered by the installed plugin {namespace!r}"
            if there
            else f"needs the plugin {namespace!r}, which is not installed"
        )
        install = f"pip install {record.distribution}=={record.version}" if record else "ask who published it"
        raise PluginError(
            f"the model's {kind} {name!r} {why}", hint=f"{install} (the bundle's own word: install what you trust)"
        ) from error


def parsed_options(entry: Any, values: dict[str, Any], kind: str, where: str) -> Any:
    """The options that ``zoo.json`` holds, as the plugin's own schema reads them.

    Raises:
        IntegrityError: they are not what it takes.
    """
    try:
        return parse_options(entry.spec.options, values, where=kind)
    except PluginError:
        raise
    except ZooError as error:
        raise IntegrityError(f"{where}: zoo.json: {error.message}", hint=error.hint) from error


def built(entry: Any, where: str, options: Any, **arguments: Any) -> nn.Module:
    """Call a factory; what it says of these values is a fault of the bundle, not of the user."""
    factory: Any = entry.factory()
    try:
        module = factory(entry.spec, options, **arguments)
    except (IntegrityError, PluginError):
        raise
    except ZooError as error:
        raise IntegrityError(f"{where}: {error.message}", hint=error.hint) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise IntegrityError(
            f"{where}: {entry.kind} {entry.name} cannot be built from it: {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(module, nn.Module):
        raise PluginError(
            f"{entry.kind} {entry.name}: its factory returned {type(module).__name__}, not a torch module"
        )
    return module


def bundle_assets(entry: Any, path: Path, files: frozenset[str], where: str) -> dict[str, Any]:
    """The ``assets`` argument of a backbone that needs files beside its weights: the bundle's own, and no others."""
    names = entry.spec.weights.assets if entry.spec.weights else ()
    missing = [name for name in names if name not in files]
    if missing:
        raise IntegrityError(f"{where} has no {missing[0]}, which {entry.name} needs")
    return {"assets": {name: path / name for name in names}} if names else {}


def tensor_shapes(path: Path, where: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a safetensors file's tensors, of which none is read."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise IntegrityError(f"{where}: {path.name} is no safetensors file: {error}") from error
