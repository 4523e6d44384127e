"""The weights file that a delta is made from: named by commit and sha256, fetched where it is to be had, checked."""

from __future__ import annotations

from pathlib import Path

from zoo_registry import HubError, IntegrityError, Registry, UsageError, ZooError

from zoo.assembly.weights import locate_weights
from zoo.bundle.document import Document
from zoo.bundle.parts import find_entry
from zoo.hub import Hub, open_hub

WHOLE = "push it whole: without --delta"


def base_of(document: Document, registry: Registry, where: str) -> dict[str, str]:
    """What ``zoo.json`` says of the weights that training began with, in the form of a delta's base.

    Raises:
        UsageError: there were none that others can get.
    """
    base = document.base
    if base is None:
        raise UsageError(f"{where} began with random weights, so there is no base for a delta", hint=WHOLE)
    if base.get("form") == "delta":
        raise UsageError(f"{where} began with weights that are published as a delta themselves", hint=WHOLE)
    if base.get("kind") == "hub":
        return {key: str(base[key]) for key in ("kind", "repo", "file", "revision", "sha256")}
    if base.get("kind") == "package":
        entry = find_entry(registry, document, "backbone", document.backbone)
        return {
            "kind": "package",
            "distribution": entry.plugin.distribution,
            **{key: str(base[key]) for key in ("package", "resource", "sha256")},
        }
    raise UsageError(f"{where} began with a local file, which nobody else has, so a delta has no base", hint=WHOLE)


def locate_base(
    base: dict[str, str],
    document: Document,
    registry: Registry,
    *,
    hub: str | None = None,
    offline: bool = False,
    where: str,
) -> Path:
    """The base's file, verified.

    A file of a package is found through the installed backbone, never by the names in ``zoo.json``: these are compared
    alone. A hub file is looked for on ``hub`` and on the Hugging Face Hub, in the caches first: the sha256 says
    whether it is the one.

    Raises:
        HubError: it is neither cached nor to be had.
        IntegrityError: what is there under its name is another file.
        PluginError: the backbone's plugin is not installed.
    """
    if base["kind"] == "package":
        return _installed(base, document, registry, where)
    failed: list[ZooError] = []
    for cached in (True, False):
        for source in hubs(hub, offline) if cached or not offline else []:
            try:
                found = source.file(base["repo"], base["file"], base["revision"], offline=cached, sha256=base["sha256"])
            except (HubError, IntegrityError) as error:
                failed.append(error)
            else:
                return found.path
    name = f"{base['repo']}@{base['revision'][:12]}"
    wrong = next((e for e in failed if isinstance(e, IntegrityError)), None)
    if wrong is not None:
        raise IntegrityError(f"{where} is a delta on {name}, which is not what it was: {wrong.message}", wrong.hint)
    fetch = f"run it once online: zoo pull {base['repo']}@{base['revision']}"
    hint = fetch if offline else f"{failed[-1].hint or fetch}; or ask for the whole model (zoo push without --delta)"
    raise HubError(f"{where} is a delta on {name}, which cannot be had: {failed[-1].message}", hint)


def hubs(hub: str | None, offline: bool) -> list[Hub]:
    """Where a base may be: the hub that was named, then the Hugging Face Hub."""
    given, usual = open_hub(hub, offline=offline), open_hub("hf", offline=offline)
    return [given] if given.location == usual.location else [given, usual]


def _installed(base: dict[str, str], document: Document, registry: Registry, where: str) -> Path:
    entry = find_entry(registry, document, "backbone", document.backbone)
    weights, distribution = entry.spec.weights, entry.plugin.distribution
    record = next((p for p in document.plugins if p.distribution == distribution), None)
    hint = f"pip install {distribution}=={record.version}" if record else f"another version of {distribution}"
    if weights is None or (weights.package, weights.resource) != (base["package"], base["resource"]):
        raise IntegrityError(f"{where} is a delta on weights that {distribution} does not bring", hint=hint)
    located = locate_weights(entry, registry)
    if located.source["sha256"] != base["sha256"]:
        raise IntegrityError(
            f"{where} is a delta on weights of {document.backbone} with sha256 {base['sha256']}, the installed "
            f"{distribution} brings {located.source['sha256']}",
            hint=hint,
        )
    return located.path
