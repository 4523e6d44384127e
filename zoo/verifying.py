"""Is what lies here what was published? Every byte against the manifest, then the golden logits; no network."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_registry import HubError, IntegrityError, PluginError, Registry, UsageError

from zoo.bundle.document import DOCUMENT
from zoo.hub.base import RepoFile
from zoo.hub.files import MANIFEST, NOT_BINDING, is_safe, read_manifest, sha256_of
from zoo.models import bundle_in, find_folder, pull_model

NAMED = 3
"""Damaged files that an error names; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was found to be whole.

    Attributes:
        name: as asked for.
        path: where it lies.
        revision: commit, where it came from a hub.
        files: what was hashed just now.
        difference: largest difference of the golden logits, None where they were not computed.
        not_proved: why they were not, None where they were.
    """

    name: str
    path: Path
    revision: str | None
    files: tuple[RepoFile, ...]
    difference: float | None = None
    not_proved: str | None = None

    def to_json(self) -> dict[str, Any]:
        """What ``zoo verify --json`` prints."""
        return {
            "name": self.name,
            "path": str(self.path),
            "revision": self.revision,
            "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in self.files],
            "golden": None if self.difference is None else {"difference": self.difference},
            "not_proved": self.not_proved,
        }


def verify_model(model: str, registry: Registry, *, hub: str | None = None, logits: bool = True) -> Verified:
    """Verify a run, a bundle, or what is in the cache (or a folder hub) of ``owner/name[@revision]``; sends no request.

    Args:
        model: which.
        registry: the installed plugins.
        hub: the hub whose cache is meant, or a folder hub.
        logits: False: bytes alone.

    Raises:
        IntegrityError: files are damaged, missing or extra; or the model does not reproduce its golden logits.
        HubError: it is not in the cache.
        UsageError: it is no model.
    """
    path = Path(model)
    if path.exists() and not model.startswith("hf:"):
        folder = bundle_in(path)
        revision, files = None, check_bundle(folder, model)
    else:
        if "/" not in model:
            raise UsageError(
                f"no model {model!r}: no such folder, and not a name like owner/name", hint="zoo list models"
            )
        pulled = pull_model(model, registry=registry, hub=hub, offline=True)
        folder, revision = pulled.path, pulled.revision
        files = tuple(pulled.contents[name] for name in sorted(pulled.contents))
    found = Verified(name=model, path=folder, revision=revision, files=files)
    if not logits:
        return dataclasses.replace(found, not_proved="golden logits were not asked for")
    if DOCUMENT not in {file.path for file in files}:
        return dataclasses.replace(found, not_proved="another library wrote it, so there are no golden logits")
    try:
        return dataclasses.replace(found, difference=_golden(found, registry, hub))
    except (PluginError, HubError) as error:
        return dataclasses.replace(found, not_proved=error.message)


def check_bundle(folder: Path, where: str) -> tuple[RepoFile, ...]:
    """Hash every file of a bundle's folder; the card may be edited, and hidden files are nobody's business.

    Raises:
        IntegrityError: files are damaged, missing, links, or not of the manifest; names some and counts all.
    """
    if not (folder / MANIFEST).is_file():
        raise IntegrityError(f"{where} has no {MANIFEST}", "the bundle is not complete; write or pull it again")
    listed, found, wrong = read_manifest(folder / MANIFEST, where), [], []
    for name, file in sorted(listed.items()):
        there, problem = _check(folder / name, file)
        found.append(there)
        wrong += [f"{name} {problem}"] if problem else []
    for spot in sorted(folder.rglob("*")):
        name = spot.relative_to(folder).as_posix()
        if (spot.is_file() or spot.is_symlink()) and name not in {*listed, MANIFEST, *NOT_BINDING}:
            wrong += [] if spot.name.startswith(".") else [f"{name} does not stand in {MANIFEST}"]
    if wrong:
        more = f", and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        hint = "do not use it; pull or write it again"
        raise IntegrityError(f"{where} is damaged: {'; '.join(wrong[:NAMED])}{more}", hint)
    return tuple(found)


def _check(spot: Path, file: RepoFile) -> tuple[RepoFile, str | None]:
    """The file as it is, and what is wrong with it."""
    if not is_safe(file.path):
        return file, "is of a kind that is never read"
    if not spot.is_file():
        return file, "is missing"
    there = RepoFile(path=file.path, size=spot.stat().st_size, sha256=sha256_of(spot))
    if file.path in NOT_BINDING or (there.size, there.sha256) == (file.size, file.sha256):
        return there, None
    return there, f"has sha256 {there.sha256}, {MANIFEST} says {file.sha256}"


def _golden(checked: Verified, registry: Registry, hub: str | None) -> float:
    """The largest difference of the golden logits; a delta is made whole first, of what is on this machine."""
    from zoo.bundle.golden import check_golden
    from zoo.bundle.read import load_bundle

    found = find_folder(checked.path, checked.name, registry=registry, hub=hub, offline=True)
    known = found.files or tuple(file.path for file in checked.files)
    loaded = load_bundle(found.path, registry, name=checked.name, files=known)
    return check_golden(loaded.model, loaded.input, loaded.document.golden, where=checked.name)
