"""Where a fine-tuning starts from when that is not a backbone's own weights: a hub repo, a folder, a weights file.

``--backbone hf:owner/name[@revision]`` and ``--backbone FOLDER`` (a bundle, a run, or what another library saved) say
all of the backbone themselves; ``--weights FILE.safetensors`` goes with a backbone by name. What is found stands in the
recipe (``[weights]``, ``[input]``), pinned to one commit or one sha256, so that the recipe gives the same bits again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_registry import (
    BackboneSpec,
    ConflictError,
    HubError,
    Input,
    IntegrityError,
    Registry,
    UnknownNameError,
    UsageError,
)

from zoo.hub.contents import JSON_LIMIT
from zoo.hub.files import MANIFEST, PICKLES, read_manifest, sha256_of

if TYPE_CHECKING:
    from zoo.bundle.document import Document
    from zoo.hub.base import Hub, RepoInfo
    from zoo.planning import Request

WEIGHTS = "model.safetensors"
GIVEN = "given"
"""The key of a weights source that says that it was chosen, and how."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A backbone with weights that are not its own.

    Attributes:
        backbone: full name.
        options: of the backbone.
        input: what the weights were trained with; None: the backbone's own.
        weights: the source, as a recipe keeps it: texts alone.
    """

    backbone: str
    options: dict[str, Any] = field(default_factory=dict)
    input: Input | None = None
    weights: dict[str, str] = field(default_factory=dict)


def settle_origin(request: Request, registry: Registry, *, hub: str | None = None, offline: bool = False) -> Request:
    """The request with its origin found out, where it names one; of a hub repo some small files are fetched for it.

    Raises:
        UsageError: there is no such folder or file, or one cannot start from it.
        HubError, IntegrityError: the repo cannot be had, or is damaged.
        PluginError: no installed plugin knows what is in it.
    """
    name = request.backbone
    known = name is None or _registered(name, registry)
    if request.weights is not None:
        if not known:
            raise UsageError(
                f"--weights goes with a backbone by name, and {name!r} brings weights of its own",
                hint="leave --weights out, or write --backbone NAME",
            )
        return dataclasses.replace(request, origin=_file(request, registry))
    if known or name is None:
        return request
    if name.startswith("hf:"):
        found = remote_origin(name, registry, hub=hub, offline=offline)
    elif name and Path(name).is_dir():
        found = folder_origin(Path(name), registry, hub=hub, offline=offline)
    else:
        _refuse(name, registry)
        return request
    return dataclasses.replace(request, backbone=found.backbone, origin=found)


def _registered(name: str, registry: Registry) -> bool:
    try:
        registry.backbone(name)
    except UnknownNameError:
        return False
    except Exception:  # ambiguous, or of a broken plugin: planning says it
        return True
    return True


def _refuse(name: str, registry: Registry) -> None:
    """Say what is meant by a name that is none; silence where planning's own message is the better one.

    Raises:
        UsageError: a file, or a name that can only be one of a hub.
    """
    suffix = Path(name).suffix.lower()
    if suffix == ".safetensors" or suffix in PICKLES:
        raise UsageError(
            f"{name!r} is a file of weights, which does not say what it is of",
            hint="name the backbone too: --backbone NAME --weights FILE.safetensors",
        )
    owner, slash, rest = name.partition("/")
    taken = {plugin.namespace for plugin in registry.plugins}
    if slash and rest and "/" not in rest and owner not in taken and not name.startswith("."):
        raise UnknownNameError(f"unknown backbone {name!r}", hint=f"to start from that repo on the hub: hf:{name}")


def _file(request: Request, registry: Registry) -> Origin:
    """A safetensors file for the backbone that is named, or that the recipe names."""
    path = Path(str(request.weights))
    if path.suffix.lower() != ".safetensors":
        why = "may hold code and is never loaded" if path.suffix.lower() in PICKLES else "is no safetensors file"
        raise UsageError(f"{str(path)!r} {why}", hint="give a .safetensors file")
    if not path.is_file():
        raise UsageError(f"no weights file {str(path)!r}", hint="give the path of a .safetensors file")
    name = request.backbone or (request.recipe.backbone.name if request.recipe is not None else None)
    if name is None:
        raise UsageError("--weights does not say what they are weights of", hint="name it: --backbone NAME")
    source = {"kind": "file", "path": str(path.resolve()), "sha256": sha256_of(path), GIVEN: str(request.weights)}
    kept = request.recipe.backbone.options if request.recipe is not None and request.backbone is None else {}
    return Origin(backbone=name, options=dict(kept), weights=source)


# ---------------------------------------------------------------------- folders


def folder_origin(path: Path, registry: Registry, *, hub: str | None = None, offline: bool = False) -> Origin:
    """A bundle's folder, a finished run's, or one that another library saved.

    Raises:
        UsageError: it is none of these, or one cannot start from it.
    """
    from zoo.bundle.document import DOCUMENT, read_document
    from zoo.hub.files import verify_folder
    from zoo.models import find_folder, foreign_files

    if files := foreign_files(path, registry):
        return _foreign_folder(path, files, registry)
    found = find_folder(path, str(path), registry=registry, hub=hub, offline=offline)
    listed = verify_folder(found.path, str(path))
    document = read_document(found.path / DOCUMENT, where=str(path))
    spot = found.path / WEIGHTS
    source = {"kind": "file", "path": str(spot.resolve()), "sha256": str(listed[WEIGHTS].sha256), GIVEN: str(path)}
    return _of_document(document, registry, source, str(path), local=True)


def _foreign_folder(path: Path, files: tuple[str, ...], registry: Registry) -> Origin:
    from zoo.bundle.foreign import CARD, card_licence, check_plain, folder_files, no_tensors, read_foreign

    small = folder_files(path, files, registry)
    check_plain(path, small, str(path))
    read = read_foreign(small, registry, str(path))
    assert read is not None  # or these were no foreign files
    if read.tensors not in files:
        raise no_tensors(path, read.tensors, str(path))
    check_plain(path, [read.tensors], str(path))
    spot = path / read.tensors
    source = {"kind": "file", "path": str(spot.resolve()), "sha256": sha256_of(spot), GIVEN: str(path)}
    source |= _licensed(card_licence(path / CARD), str(path.name))
    options, given = dict(read.found.options), read.found.input
    return Origin(backbone=read.backbone.name, options=options, input=given, weights=source)


def _of_document(
    document: Document, registry: Registry, source: dict[str, str], where: str, *, local: bool = False
) -> Origin:
    """A bundle as a start: its backbone, built and fed as it was; of a ``local`` one the folder's path is not told.

    Raises:
        UsageError: its weights are not all of it.
    """
    from zoo.bundle.parts import find_entry

    find_entry(registry, document, "backbone", document.backbone)
    if not document.merged:
        method = document.adapter.method if document.adapter else "an adapter"
        raise UsageError(
            f"{where} is weights and {method} beside them that is not merged, so one cannot start from its weights",
            hint="start from its base: zoo show names it",
        )
    licensed = _licensed(document.license_stated or document.license, Path(where).name if local else where)
    return Origin(
        backbone=document.backbone,
        options=dict(document.backbone_options),
        input=document.input,
        weights={**source, **licensed},
    )


def _licensed(licence: str | None, where: str) -> dict[str, str]:
    return {"license": licence, "license_source": f"the card of {where}"} if licence else {}


# ---------------------------------------------------------------------- hubs


def remote_origin(name: str, registry: Registry, *, hub: str | None = None, offline: bool = False) -> Origin:
    """``hf:owner/name[@revision]``: a bundle of the zoo, or a repo that an installed format knows.

    Raises:
        HubError, IntegrityError: it cannot be had, has no safe weights, or is damaged.
        PluginError: no installed plugin knows what is in it.
        UsageError: one cannot start from it.
    """
    from zoo.hub import open_hub
    from zoo.models import split_revision

    repo, revision = split_revision(name)
    source = open_hub(hub, offline=offline)
    info = source.info(repo, revision)
    where = f"{repo}@{info.revision[:7]}"
    pinned = {"kind": "hub", "repo": info.name, "revision": info.revision, GIVEN: name}
    paths = {file.path for file in info.files}
    if "zoo.json" in paths:
        return _remote_bundle(source, info, pinned, registry, where, offline)
    from zoo.bundle.foreign import read_foreign, stated, wanted_files

    small = {name: fetch_small(source, info, name, offline) for name in wanted_files(registry) if name in paths}
    read = read_foreign(small, registry, where)
    if read is None:
        raise UsageError(f"{where} has no zoo.json and no config.json", hint=f"zoo show hf:{repo} lists what it has")
    licence = stated(info.metadata)
    pinned |= {"file": read.tensors, **_hashed(info, read.tensors), **_licensed(licence, repo)}
    if read.tensors not in paths:
        source.file(repo, read.tensors, info.revision, offline=offline)  # says why there is none
    options, given = dict(read.found.options), read.found.input
    return Origin(backbone=read.backbone.name, options=options, input=given, weights=pinned)


def _remote_bundle(
    source: Hub, info: RepoInfo, pinned: dict[str, str], registry: Registry, where: str, offline: bool
) -> Origin:
    from zoo.bundle.document import DOCUMENT, read_document

    listed = read_manifest(fetch_small(source, info, MANIFEST, offline), where)
    spot = fetch_small(source, info, DOCUMENT, offline)
    if DOCUMENT not in listed or listed[DOCUMENT].sha256 != sha256_of(spot):
        raise IntegrityError(f"{where}: {DOCUMENT} is not the one that {MANIFEST} lists", hint="publish it again")
    document = read_document(spot, where=where)
    pinned |= {"file": WEIGHTS}
    if WEIGHTS in listed:
        pinned["sha256"] = str(listed[WEIGHTS].sha256)
    else:
        pinned["form"] = "delta"
    return _of_document(document, registry, pinned, where.partition("@")[0])


def fetch_small(source: Hub, info: RepoInfo, name: str, offline: bool) -> Path:
    """A JSON file of a repo, at the commit of ``info``.

    Raises:
        IntegrityError: it is larger than JSON may be; not a byte of it is fetched.
        HubError: it cannot be had.
    """
    size = next((file.size for file in info.files if file.path == name), 0)
    if size > JSON_LIMIT:
        raise IntegrityError(f"{info.name}: {name} has {size} bytes, more than JSON may have ({JSON_LIMIT})")
    return source.file(info.name, name, info.revision, offline=offline).path


def _hashed(info: RepoInfo, name: str) -> dict[str, str]:
    found = next((file.sha256 for file in info.files if file.path == name), None)
    return {"sha256": found} if found else {}


# ---------------------------------------------------------------------- the file itself


def chosen(source: Mapping[str, Any] | None) -> bool:
    """Whether a recipe's weights were chosen in place of the backbone's own."""
    return source is not None and GIVEN in source


def locate_chosen(
    source: Mapping[str, Any], registry: Registry, *, hub: str | None = None, offline: bool = False
) -> tuple[Path, dict[str, Any]]:
    """The file of chosen weights, verified, and the source with its sha256.

    Raises:
        UsageError: the file is no longer there, or the source is not one.
        IntegrityError: it is not what it was.
        HubError: the repo cannot be had.
    """
    try:
        if source.get("kind") == "file":
            path = Path(source["path"])
            found = _unchanged(path, source)
        elif source.get("form") == "delta":
            path = _whole(source, registry, hub, offline)
            found = _unchanged(path, source)
        else:
            from zoo.hub import open_hub

            place = open_hub(hub, offline=offline)
            sha = source.get("sha256")
            fetched = place.file(source["repo"], source["file"], source["revision"], offline=offline, sha256=sha)
            path, found = fetched.path, fetched.sha256
    except KeyError as error:
        raise UsageError(f"[weights] of the recipe has no {error}", hint="say it again with --backbone") from error
    except (HubError, ConflictError) as error:
        raise type(error)(f"weights of {source.get(GIVEN)}: {error.message}", hint=error.hint) from error
    return path, {**source, "sha256": found}


def _unchanged(path: Path, source: Mapping[str, Any]) -> str:
    if not path.is_file():
        raise UsageError(f"the weights file {str(path)!r} is no longer there", hint="say where: --weights FILE")
    found, known = sha256_of(path), source.get("sha256")
    if known is not None and found != known:
        raise IntegrityError(
            f"{str(path)!r} is another file than the run began with: sha256 {found}, recorded {known}",
            hint="put the old file back, or start a new run",
        )
    return found


def _whole(source: Mapping[str, Any], registry: Registry, hub: str | None, offline: bool) -> Path:
    from zoo.models import pull_model

    name = f"{source['repo']}@{source['revision']}"
    return pull_model(name, registry=registry, hub=hub, offline=offline).path / WEIGHTS


def source_in_words(source: Mapping[str, Any]) -> str:
    """``hub repo me/pets at 0123456789ab`` or ``file model.safetensors``."""
    if source.get("kind") == "file":
        return f"file {source.get(GIVEN)}"
    return f"hub repo {source.get('repo')} at {str(source.get('revision'))[:12]}"


def licence_of(spec: BackboneSpec, source: Mapping[str, Any] | None) -> str | None:
    """The licence of the weights that a recipe begins with: of chosen ones what their card states, None if unknown."""
    if source is not None and chosen(source):
        return source.get("license")
    return spec.weights.license if spec.weights is not None else None


def at_hand(source: Mapping[str, Any], hub: str | None = None) -> bool:
    """Whether chosen weights are on this machine; the network is not asked."""
    if source.get("kind") == "file":
        return Path(str(source.get("path"))).is_file()
    from zoo.hub import open_hub

    place, repo, revision = open_hub(hub, offline=True), str(source.get("repo")), str(source.get("revision"))
    cache = getattr(place, "cache", None)
    if cache is None:
        return True  # a folder, which was asked a moment ago
    commit = cache.resolve(repo, revision)
    return commit is not None and cache.find(repo, commit, str(source.get("file"))) is not None


def without_path(source: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Where weights came from, as it may be published: without what only this machine knows."""
    if source is None:
        return None
    hidden = {GIVEN, "path"} if source.get("kind") == "file" else {GIVEN}
    return {name: value for name, value in source.items() if name not in hidden}
