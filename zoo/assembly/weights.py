"""Where pretrained weights come from: a package resource or one pinned commit of a hub repo, verified before use."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_registry import BackboneSpec, Entry, HubError, IntegrityError, Registry, Weights

from zoo.assembly.fit import check_weights
from zoo.hub import open_hub
from zoo.hub.files import sha256_of
from zoo.origins import at_hand, chosen, locate_chosen, source_in_words

_resources = ExitStack()  # keeps files of zipped packages alive for the life of the process


@dataclass(frozen=True, kw_only=True)
class LocatedWeights:
    """A verified local safetensors file and where it came from.

    Attributes:
        path: the file.
        source: ``{"kind": "hub", "repo", "file", "revision", "sha256"}`` or ``{"kind": "package", ...}``, as recorded.
    """

    path: Path
    source: dict[str, Any]


def locate_weights(
    entry: Entry[BackboneSpec],
    registry: Registry,
    *,
    pinned: Mapping[str, Any] | None = None,
    hub: str | None = None,
    offline: bool = False,
) -> LocatedWeights:
    """Find and verify the pretrained weights of a backbone.

    Args:
        entry: the backbone.
        registry: for the alternatives that an error names.
        pinned: what an earlier run of the recipe found, see :class:`LocatedWeights`; the same commit is taken again.
            Where it was chosen in place of the backbone's own (:mod:`zoo.origins`), it is taken whatever the spec says.
        hub: where to look for hub repos; the Hugging Face Hub (or its mirror in ``HF_ENDPOINT``) by default.
        offline: use the cache alone.

    Raises:
        UsageError: the backbone has no pretrained weights, or none that are safe to load.
        HubError: they are neither cached nor reachable; the hint names backbones whose weights are installed.
        IntegrityError: the bytes are not what the spec or the hub says.
    """
    if pinned is not None and chosen(pinned):
        path, source = locate_chosen(pinned, registry, hub=hub, offline=offline)
        return LocatedWeights(path=path, source=source)
    weights = entry.spec.weights
    check_weights(entry)
    assert weights is not None
    if weights.where == "package":
        return _from_package(entry)
    try:
        fetched = open_hub(hub, offline=offline).file(
            str(weights.repo), weights.file, _revision(weights, pinned), offline=offline, sha256=weights.sha256
        )
    except HubError as error:
        raise HubError(f"weights of {entry.name}: {error.message}", hint=_installed_hint(registry, error)) from error
    source = {
        "kind": "hub",
        "repo": weights.repo,
        "file": weights.file,
        "revision": fetched.revision,
        "sha256": fetched.sha256,
    }
    return LocatedWeights(path=fetched.path, source=source)


def weights_at_hand(
    entry: Entry[BackboneSpec], *, pinned: Mapping[str, Any] | None = None, hub: str | None = None
) -> bool:
    """Whether the pretrained weights are on this machine; the network is not asked and no byte is read."""
    if pinned is not None and chosen(pinned):
        return at_hand(pinned, hub)
    weights = entry.spec.weights
    if weights is None or weights.where == "none":
        return False
    if weights.where == "package":
        return True
    source, repo, revision = open_hub(hub, offline=True), str(weights.repo), _revision(weights, pinned)
    cache = getattr(source, "cache", None)
    if cache is None:  # a folder
        try:
            return any(file.path == weights.file for file in source.info(repo, revision).files)
        except HubError:
            return False
    commit = cache.resolve(repo, revision)
    return commit is not None and cache.find(repo, commit, weights.file) is not None


def weights_in_words(spec: BackboneSpec, pinned: Mapping[str, Any] | None = None) -> str:
    """Where a backbone's weights come from; ``pinned`` are those of a recipe."""
    if pinned is not None and chosen(pinned):
        return source_in_words(pinned)
    weights = spec.weights
    if weights is None:
        return "none (random)"
    if weights.unsafe is not None:
        return f"none that is safe: {weights.unsafe}"
    return f"hub repo {weights.repo}" if weights.where == "hub" else f"installed package {weights.package}"


def locate_assets(
    entry: Entry[BackboneSpec],
    *,
    pinned: Mapping[str, Any] | None = None,
    hub: str | None = None,
    offline: bool = False,
) -> dict[str, Path]:
    """File name -> local file of what the backbone needs beside its weights, with random weights too (a tokenizer's).

    Args:
        entry: the backbone.
        pinned: where the weights came from; the files are taken from the same commit.
        hub, offline: as in :func:`locate_weights`.

    Raises:
        HubError, IntegrityError: a file cannot be had.
    """
    weights = entry.spec.weights
    if weights is None or not weights.assets:
        return {}
    if weights.where == "package":
        return {name: _resource(entry, name) for name in weights.assets}
    source, revision = open_hub(hub, offline=offline), _revision(weights, pinned)
    found = {}
    for name in weights.assets:
        fetched = source.file(str(weights.repo), name, revision, offline=offline)
        found[name], revision = fetched.path, fetched.revision
    return found


def _revision(weights: Weights, pinned: Mapping[str, Any] | None) -> str | None:
    """The commit that was taken before, where that was of the same repo."""
    if pinned is not None and pinned.get("repo") == weights.repo and pinned.get("revision"):
        return str(pinned["revision"])
    return weights.revision


def installed_backbones(registry: Registry) -> list[str]:
    """Names of the backbones whose weights lie in an installed package."""
    return [e.name for e in registry.entries("backbone") if e.spec.weights and e.spec.weights.where == "package"]


def _installed_hint(registry: Registry, error: HubError) -> str:
    names = installed_backbones(registry)
    offer = f"backbones with installed weights: {', '.join(names[:4])}" if names else ""
    return "; ".join(part for part in (error.hint, offer) if part)


def _resource(entry: Entry[BackboneSpec], name: str) -> Path:
    """A file inside the package that brings the weights."""
    weights = entry.spec.weights
    assert weights is not None
    assert weights.package
    try:
        resource = importlib.resources.files(weights.package).joinpath(name)
        path = _resources.enter_context(importlib.resources.as_file(resource))
        if not path.is_file():
            raise FileNotFoundError(name)
    except (OSError, ModuleNotFoundError) as error:
        raise IntegrityError(
            f"weights of {entry.name}: {weights.package}/{name} is missing",
            hint=f"pip install --force-reinstall {entry.plugin.distribution}",
        ) from error
    return path


def _from_package(entry: Entry[BackboneSpec]) -> LocatedWeights:
    weights = entry.spec.weights
    assert weights is not None
    assert weights.resource
    path = _resource(entry, weights.resource)
    found = sha256_of(path)
    if weights.sha256 is not None and found != weights.sha256:
        raise IntegrityError(
            f"weights of {entry.name}: sha256 is {found}, expected {weights.sha256}",
            hint=f"pip install --force-reinstall {entry.plugin.distribution}",
        )
    source = {"kind": "package", "package": weights.package, "resource": weights.resource, "sha256": found}
    return LocatedWeights(path=path, source=source)
