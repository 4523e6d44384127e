"""What ``zoo show`` says of a model: a folder's, or one on a hub."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_registry import Registry, ZooError

from zoo.cli.listing import model_title
from zoo.cli.output import emit, one_line, open_registry, say, short_number
from zoo.cli.showing import describe_input

if TYPE_CHECKING:
    from zoo.bundle.document import Document
    from zoo.hub.base import Hub, RepoInfo
    from zoo.lineage import Step

SHOWN = 10
"""Classes of a column that are named."""
DELTA_NOTE = "stored as a delta on its base weights; zoo pull makes it whole"


def show_folder(path: Path, as_json: bool, registry: Registry, *, hub: str | None, offline: bool) -> None:
    """A run's, a bundle's, or another library's folder.

    Raises:
        UsageError: it is none of these.
        IntegrityError: what it says of itself cannot be.
    """
    from zoo.bundle.document import read_document
    from zoo.cli.foreign import show_foreign_folder
    from zoo.lineage import trace
    from zoo.models import bundle_in

    if show_foreign_folder(path, as_json):
        return
    folder = bundle_in(path)
    document = read_document(folder / "zoo.json", where=str(path))
    found: dict[str, Any] = {"registry": registry, "hub": hub, "offline": offline}
    lineage = trace(document, name=str(path), sha256=_weights_hash(folder), **found)
    value = {"kind": "model", "path": str(folder), **document.to_json(), "lineage": [s.to_json() for s in lineage]}

    def human() -> None:
        say(f"model: {document.backbone} + {document.head}", bold=True)
        print_document(document)
        print_lineage(lineage)

    emit(value, as_json, human)


def show_remote(name: str, as_json: bool, *, hub: str | None, offline: bool) -> None:
    """A repo on a hub; of a bundle ``zoo.json`` is read, of its ancestors too.

    Raises:
        HubError: it is not to be had.
        IntegrityError: what it says of itself cannot be.
    """
    from zoo.cli.foreign import print_foreign, remote_foreign
    from zoo.cli.notices import show_warnings
    from zoo.hub import open_hub
    from zoo.lineage import trace
    from zoo.models import split_revision

    show_warnings()
    repo, revision = split_revision(name)
    source, registry = open_hub(hub, offline=offline), open_registry()
    info = source.info(repo, revision)
    foreign = remote_foreign(source, info, registry, offline=offline)
    document = _document(source, info, offline)
    versions: dict[str, str] = {}
    with contextlib.suppress(ZooError):
        versions = source.tags(info.name)
    lineage: tuple[Step, ...] = ()
    if document is not None:
        at: dict[str, Any] = {"name": info.name, "revision": info.revision, "sha256": _hash_of(info)}
        lineage = trace(document, **at, registry=registry, hub=hub, offline=offline)
    value = {
        "kind": "model",
        "name": info.name,
        "revision": info.revision,
        "url": info.url,
        "private": info.private,
        "modified": info.modified,
        "tags": list(info.tags),
        "versions": versions,
        "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in info.files],
        "metadata": dict(info.metadata),
        "document": document.to_json() if document is not None else None,
        "lineage": [step.to_json() for step in lineage],
        **({"foreign": foreign} if foreign else {}),
    }

    def human() -> None:
        _print_info(info, versions)
        if document is not None:
            print_document(document)
            print_lineage(lineage)
        if foreign:
            print_foreign(foreign)
        for file in info.files:
            say(f"  {short_number(file.size):>6}B  {file.path}")

    emit(value, as_json, human)


def _document(source: Hub, info: RepoInfo, offline: bool) -> Document | None:
    """The repo's ``zoo.json``; None where it has none, or it is not in the cache."""
    from zoo_registry import HubError

    from zoo.bundle.document import DOCUMENT, read_document

    if DOCUMENT not in {file.path for file in info.files}:
        return None
    try:
        fetched = source.file(info.name, DOCUMENT, info.revision, offline=offline)
    except HubError:
        return None
    return read_document(fetched.path, where=f"{info.name}@{info.revision[:7]}")


def _hash_of(info: RepoInfo) -> str | None:
    return next((file.sha256 for file in info.files if file.path == "model.safetensors"), None)


def _weights_hash(folder: Path) -> str | None:
    """What the manifest says of the weights; nothing is hashed to be shown."""
    from zoo.hub.files import MANIFEST, read_manifest

    if not (folder / MANIFEST).is_file():
        return None
    listed = read_manifest(folder / MANIFEST, str(folder)).get("model.safetensors")
    return listed.sha256 if listed is not None else None


def _print_info(info: RepoInfo, versions: dict[str, str]) -> None:
    say(f"model {info.name} at {info.revision[:12]}", bold=True)
    if model_title(info.metadata):
        say(f"  {model_title(info.metadata)}")
    say(f"  {info.url}{'  (private)' if info.private else ''}")
    if versions:
        say("  versions: " + ", ".join(f"{tag} ({commit[:12]})" for tag, commit in versions.items()))
    for key in ("license", "base_model", "library_name", "pipeline_tag"):
        if info.metadata.get(key):
            say(f"  {key.replace('_', ' ')}: {one_line(str(info.metadata[key]))}")


def print_document(document: Document) -> None:
    """Columns, input, metrics, base and needs of a bundle."""
    for column in document.columns:
        shown = one_line(", ".join(column.classes[:SHOWN])) + (", ..." if len(column.classes) > SHOWN else "")
        classes = f", {len(column.classes)} classes: {shown}" if column.classes else ""
        say(f"  {one_line(column.name)}: {column.kind}{classes}")
    say(f"  input: {describe_input(document.input)}")
    for split, metrics in document.metrics.items():
        values = ", ".join(f"{one_line(name)} {value:.4f}" for name, value in list(metrics.items())[:4])
        say(f"  {one_line(split)}: {values}")
    base: dict[str, Any] = document.base or {}
    source = base.get("repo") or base.get("package") or ("a local file" if base else "random weights")
    at = f" at {base['revision'][:12]}" if base.get("revision") else ""
    say(f"  base: {one_line(source + at)}, licence {one_line(document.license or 'unknown')}")
    if document.license_stated is not None:
        say(f"  licence, as stated by who published it: {one_line(document.license_stated)}")
    if document.adapter is not None:
        state = "merged" if document.merged else "applied on loading"
        say(f"  adapter: {document.adapter.method} of {document.adapter.strategy}, {state}")
    if document.delta is not None:
        say(f"  {DELTA_NOTE}")
    say(f"  needs: {', '.join(f'{p.distribution} {p.version}' for p in document.plugins)}")


def print_lineage(steps: tuple[Step, ...]) -> None:
    """The chain down to the base, a line each."""
    say("  lineage:")
    for step in steps:
        mark = {"model": "", "base": "from ", "teacher": "taught by "}[step.relation]
        say(f"    {mark}{one_line(step.words())}")
        if step.problem:
            say(f"    (where that comes from is not known: {one_line(step.problem)})")
