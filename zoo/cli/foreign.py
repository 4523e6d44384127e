"""``zoo show`` of what another library published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_registry import PluginError

from zoo.cli.output import emit, one_line, open_registry, say

if TYPE_CHECKING:
    from zoo_registry import Registry

    from zoo.bundle.foreign import ForeignModel
    from zoo.hub.base import Hub, RepoInfo


def show_foreign_folder(path: Path, as_json: bool) -> bool:
    """Show a folder that another library saved, where it is one.

    Raises:
        IntegrityError, PluginError: it is one, and what it says cannot be, or is known to no plugin.
    """
    from zoo.bundle.foreign import CARD, card_licence, folder_files, read_foreign
    from zoo.models import foreign_files

    registry = open_registry()
    files = foreign_files(path, registry)
    if not files:
        return False
    read = read_foreign(folder_files(path, files, registry), registry, str(path))
    assert read is not None  # or these were no foreign files
    value = {"kind": "model", "path": str(path), **foreign_json(read, card_licence(path / CARD))}
    emit(value, as_json, lambda: print_foreign(value))
    return True


def remote_foreign(hub: Hub, info: RepoInfo, registry: Registry, *, offline: bool) -> dict[str, Any]:
    """What the small files of a repo without ``zoo.json`` say of its model; empty where nobody here knows them."""
    from zoo.bundle.foreign import read_foreign, stated, wanted_files
    from zoo.origins import fetch_small

    paths = {file.path for file in info.files}
    if "zoo.json" in paths:
        return {}
    names = [name for name in wanted_files(registry) if name in paths]
    files = {name: fetch_small(hub, info, name, offline) for name in names}
    try:
        read = read_foreign(files, registry, info.name)
    except PluginError:
        return {}
    return foreign_json(read, stated(info.metadata)) if read is not None else {}


def foreign_json(read: ForeignModel, licence: str | None) -> dict[str, Any]:
    """The rows, as JSON."""
    found = read.found
    return {
        "format": read.format.name,
        "backbone": {"name": read.backbone.name, "options": dict(found.options)},
        "task": found.kind if found.classes else None,
        "classes": found.classes,
        "labels": list(found.labels),
        "input": {
            "kind": found.input.kind,
            **{name: list(v) if isinstance(v, tuple) else v for name, v in vars(found.input).items()},
        },
        "predicts": found.classifier is not None,
        "license": licence,
    }


def print_foreign(value: dict[str, Any]) -> None:
    """The rows, for a person."""
    if "path" in value:
        say(f"model in {value['path']}", bold=True)
    say(f"  not of the zoo: {value['format']} form, backbone {value['backbone']['name']}")
    if value["classes"]:
        names = one_line(", ".join(value["labels"][:10])) + (", ..." if len(value["labels"]) > 10 else "")
        say(f"  {value['task']}, {value['classes']} classes{': ' + names if names else ''}")
        if not value["predicts"]:
            say("  its classifier is not one linear layer: the zoo starts from it, and does not predict with it")
    else:
        say("  a backbone without a classifier")
    licence = one_line(value["license"] or "unknown")
    size = " x ".join(str(side) for side in value["input"].get("size", ()))
    say(f"  input: {size} px, {value['input'].get('channels')} channels, licence {licence}")
