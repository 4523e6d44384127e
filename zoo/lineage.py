"""Where a model comes from: the model, the one that it began with, and so on down to weights that nobody here trained.

Each step is known by commit and sha256 out of the ``zoo.json`` of the step above, so the chain cannot be told otherwise
by whoever holds an ancestor today. Nothing is downloaded but ``zoo.json`` of the ancestors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_registry import Registry, ZooError

from zoo.bundle.document import DOCUMENT, Document, read_document

if TYPE_CHECKING:
    from zoo.hub.base import Hub

DEEPEST = 16
"""Ancestors that are followed."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a lineage.

    Attributes:
        relation: ``model`` (the one that was asked for), ``base`` (what the step above began with) or ``teacher``.
        kind: ``bundle``, ``hub`` (a file of a repo), ``package`` (of an installed plugin), ``file`` or ``random``.
        name: of the repo, folder, package or model.
        revision: full commit id, None where it has none.
        sha256: of the weights, None where they are random (of the manifest, for a teacher).
        license: of the weights, None where unknown.
        learned: the strategies that made it of the step below, such as ``linear:3,full:10``; None where it is not ours.
        backbone: full name, where it is known.
        problem: why the chain was not followed further, None where it was or ends here.
    """

    relation: str
    kind: str
    name: str
    revision: str | None = None
    sha256: str | None = None
    license: str | None = None
    learned: str | None = None
    backbone: str | None = None
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)

    def words(self) -> str:
        """The step in a line for a person."""
        at = f"{self.name}@{self.revision[:12]}" if self.revision else self.name
        made = f"{self.backbone}, {self.learned}" if self.learned else self.backbone or ""
        facts = [at, made if made != self.name else "", f"sha256 {self.sha256[:12]}" if self.sha256 else ""]
        facts.append(f"licence {self.license or 'unknown'}" if self.kind != "random" else "")
        return ", ".join(fact for fact in facts if fact)


def trace(
    document: Document,
    *,
    name: str,
    revision: str | None = None,
    sha256: str | None = None,
    registry: Registry | None = None,
    hub: str | None = None,
    offline: bool = False,
) -> tuple[Step, ...]:
    """The lineage of a model, nearest first; a teacher stands behind the model that it taught.

    Args:
        document: its ``zoo.json``.
        name, revision, sha256: what it is called, its commit, and the hash of its weights, where they are known.
        registry: the installed plugins: a backbone's own weights are the end, and no hub is asked about them.
        hub, offline: where ancestors may be; the Hugging Face Hub is asked too.
    """
    known = registry or Registry()
    steps = [_model(document, "model", name, revision, sha256), *_teachers(document)]
    seen: set[tuple[str, str]] = set()
    for _ in range(DEEPEST):
        base = document.base
        if base is None:
            return (*steps, Step(relation="base", kind="random", name="random weights", backbone=document.backbone))
        at = (str(base.get("repo")), str(base.get("revision")))
        if base.get("kind") != "hub" or at in seen or _is_own(base, document, known):
            return (*steps, _end(base, document))
        seen.add(at)
        try:
            found = _document_of(base, hub, offline)
        except ZooError as error:
            return (*steps, dataclasses.replace(_end(base, document), problem=error.message))
        if found is None:
            return (*steps, _end(base, document))
        document = found
        steps += [_model(document, "base", *at, base.get("sha256")), *_teachers(document)]
    return tuple(steps)


def learned(recipe: Mapping[str, Any]) -> str:
    """The strategies of a recipe as ``zoo.json`` keeps it, on one line; whatever is not as it should be is left out."""
    phases = recipe.get("phase")
    words = []
    for phase in phases if isinstance(phases, list) else []:
        rows = phase.get("strategies") if isinstance(phase, Mapping) else None
        names = [r.get("name") if isinstance(r, Mapping) else r for r in (rows if isinstance(rows, list) else [])]
        text = "+".join(str(name).rpartition("/")[2] for name in names if isinstance(name, str))
        epochs, steps = phase.get("epochs") if rows else None, phase.get("steps") if rows else None
        text += f":{epochs}" if isinstance(epochs, int) else f":{steps}s" if isinstance(steps, int) else ""
        words += [text] if text else []
    return ",".join(words)


def _model(document: Document, relation: str, name: str, revision: str | None, sha256: Any) -> Step:
    return Step(
        relation=relation,
        kind="bundle",
        name=name,
        revision=revision,
        sha256=sha256,
        license=document.license_stated or document.license,
        learned=learned(document.recipe) or None,
        backbone=document.backbone,
    )


def _teachers(document: Document) -> list[Step]:
    rows = document.recipe.get("teachers")
    pins = {n: p for n, p in rows.items() if isinstance(p, Mapping)} if isinstance(rows, Mapping) else {}
    return [
        Step(
            relation="teacher",
            kind="hub" if isinstance(pin.get("revision"), str) else "file",
            name=str(name),
            revision=_text(pin.get("revision")),
            sha256=_text(pin.get("sha256")),
        )
        for name, pin in pins.items()
    ]


def _end(base: Mapping[str, Any], document: Document) -> Step:
    """The weights that the last known model began with."""
    kind = str(base.get("kind") or "file")
    names = {"hub": base.get("repo"), "package": f"{base.get('package')}: {base.get('resource')}"}
    return Step(
        relation="base",
        kind=kind,
        name=str(names.get(kind) or "a local file"),
        revision=_text(base.get("revision")),
        sha256=_text(base.get("sha256")),
        license=_text(base.get("license")) or document.license,
        backbone=document.backbone,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _is_own(base: Mapping[str, Any], document: Document, registry: Registry) -> bool:
    """Whether the weights are the backbone's own, by the installed plugin's word."""
    try:
        weights = registry.backbone(document.backbone).spec.weights
    except ZooError:
        return False
    return weights is not None and weights.repo == base.get("repo")


def _document_of(base: Mapping[str, Any], hub: str | None, offline: bool) -> Document | None:
    """The ``zoo.json`` of the repo that a base is a file of, None where it has none.

    Raises:
        ZooError: the repo is not to be had, or damaged.
    """
    from zoo.bundle.base import hubs

    repo, revision = str(base["repo"]), str(base["revision"])
    failed: ZooError | None = None
    for source in hubs(hub, offline):
        try:
            return _on(source, repo, revision, offline)
        except ZooError as error:
            failed = failed or error
    assert failed is not None  # there is a hub
    raise failed


def _on(source: Hub, repo: str, revision: str, offline: bool) -> Document | None:
    if DOCUMENT not in {file.path for file in source.info(repo, revision).files}:
        return None
    fetched = source.file(repo, DOCUMENT, revision, offline=offline)
    return read_document(fetched.path, where=f"{repo}@{revision[:7]}")
