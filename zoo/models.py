"""MODEL on the command line: a bundle folder, a run folder, or ``owner/name[@revision]`` on a hub."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_registry import Registry, UsageError
from zoo_registry.errors import did_you_mean

if TYPE_CHECKING:
    import torch

    from zoo.bundle.read import LoadedModel
    from zoo.evaluation.report import Report
    from zoo.hub.base import Pulled
    from zoo.lock import Entry

_REPO = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")


@dataclass(frozen=True)
class FoundModel:
    """Where a model's bundle lies.

    Attributes:
        path: the bundle's folder.
        name: as asked for.
        revision: the commit, where it came from a hub.
        files: its files, where they were hashed just now.
    """

    path: Path
    name: str
    revision: str | None = None
    files: tuple[str, ...] | None = None


def split_revision(name: str) -> tuple[str, str | None]:
    """``owner/name@revision``, with or without ``hf:`` before it, as name and revision, both checked."""
    from zoo.hub.names import split_revision as split

    return split(name.removeprefix("hf:"))


def find_model(
    model: str, *, registry: Registry | None = None, hub: str | None = None, offline: bool = False
) -> FoundModel:
    """Find a model's bundle; a name that is no existing path is pulled from the hub.

    Raises:
        UsageError: neither a bundle, nor a finished run, nor a name.
        HubError, IntegrityError, PluginError: as :func:`pull_model`.
    """
    path = Path(model)
    if path.exists() and not model.startswith("hf:"):
        if registry is not None and (names := foreign_files(path, registry)):
            return FoundModel(path, model, files=names)
        return find_folder(path, model, registry=registry, hub=hub, offline=offline)
    if not _REPO.match(model.removeprefix("hf:")):
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UsageError(
            f"no model {model!r}: no such folder, and not a name like owner/name",
            hint=did_you_mean(path.name, siblings)
            or "a model is a run folder, a bundle folder, or owner/name[@revision]",
        )
    pulled = pull_model(model, registry=registry, hub=hub, offline=offline)
    return FoundModel(pulled.path, model, pulled.revision, pulled.files)


def foreign_files(path: Path, registry: Registry) -> tuple[str, ...]:
    """The files of a folder that another library wrote, in the form of an installed format; else none."""
    from zoo.bundle.foreign import wanted_files

    if not path.is_dir() or any((path / name).exists() for name in ("zoo.json", "recipe.toml")):
        return ()
    from zoo.hub.files import is_safe

    names = tuple(sorted(p.name for p in path.iterdir() if p.is_file() and is_safe(p.name)))
    return names if set(names) & set(wanted_files(registry)) else ()


def pull_model(
    name: str,
    *,
    registry: Registry | None = None,
    hub: str | None = None,
    offline: bool = False,
    lock: Path | None = None,
) -> Pulled:
    """A verified local copy of ``owner/name[@revision]``; one that was published as a delta is made whole.

    Args:
        name: of the repo.
        registry, hub, offline: where it, and the base of a delta, may be.
        lock: a ``zoo.lock`` to take it into, whatever the lock had before.

    Raises:
        HubError, IntegrityError: it, or the base of a delta, cannot be had, or is not what was published.
        PluginError: a delta needs a plugin that is not installed.
    """
    from zoo.bundle.whole import make_whole
    from zoo.hub import open_hub
    from zoo.lock import note_difference, write_entry

    repo, revision = split_revision(name)
    pulled = open_hub(hub, offline=offline).pull(repo, revision, offline=offline)
    path, files = make_whole(pulled.path, pulled.files, where=name, registry=registry, hub=hub, offline=offline)
    if lock is not None:
        write_entry(entry_of(pulled, revision), lock)
    else:
        note_difference(repo, revision, pulled.revision)
    return dataclasses.replace(pulled, path=path, files=files)


def entry_of(pulled: Pulled, revision: str | None) -> Entry:
    """What ``zoo.lock`` says of a pulled model, a delta's base included.

    Args:
        pulled: as the hub gave it, not made whole.
        revision: as it was asked for.
    """
    from zoo.bundle.document import DOCUMENT, read_document
    from zoo.bundle.small import DELTA
    from zoo.lock import Entry, asked_as

    base = None
    if DELTA in pulled.files and DOCUMENT in pulled.files:
        delta = read_document(pulled.path / DOCUMENT, where=pulled.name).delta
        base = dict(delta.base) if delta is not None else None
    return Entry(asked=asked_as(pulled.name, revision), commit=pulled.revision, files=dict(pulled.contents), base=base)


def find_folder(
    path: Path, name: str, *, registry: Registry | None = None, hub: str | None = None, offline: bool = False
) -> FoundModel:
    """The bundle in a folder on the disk; a delta is made whole elsewhere.

    Raises:
        UsageError: there is none.
        HubError, IntegrityError, PluginError: as :func:`pull_model`.
    """
    from zoo.bundle.small import DELTA

    folder = bundle_in(path)
    if not (folder / DELTA).is_file():
        return FoundModel(folder, name)
    from zoo.bundle.whole import make_whole
    from zoo.hub.files import verify_folder

    whole, files = make_whole(
        folder, verify_folder(folder, name), where=name, registry=registry, hub=hub, offline=offline
    )
    return FoundModel(whole, name, files=files)


def bundle_in(path: Path) -> Path:
    """The bundle's folder of an existing run or bundle folder.

    Raises:
        UsageError: it is neither, or the run is not finished.
    """
    from zoo.runs import RunFolder

    if (path / "zoo.json").is_file():
        return path
    run = RunFolder(path)
    if run.is_run():
        if not run.is_complete():
            raise UsageError(
                f"the run in {str(path)!r} is not finished",
                hint=f"go on with it: zoo finetune --resume --out {shlex.quote(str(path))}",
            )
        return run.model
    raise UsageError(f"{str(path)!r} is neither a run nor a bundle", hint="it has no recipe.toml and no zoo.json")


def load_model(
    model: str,
    registry: Registry,
    *,
    device: torch.device | str = "cpu",
    hub: str | None = None,
    offline: bool = False,
) -> LoadedModel:
    """Find and load a model, in evaluation mode.

    Raises:
        ZooError: see :func:`find_model` and :func:`zoo.bundle.read.load_bundle`.
    """
    return load_found(find_model(model, registry=registry, hub=hub, offline=offline), registry, device=device)


def load_found(found: FoundModel, registry: Registry, *, device: torch.device | str = "cpu") -> LoadedModel:
    """Load a model that was found: a bundle, or what another library published.

    Raises:
        ZooError: see :func:`zoo.bundle.read.load_bundle` and :func:`zoo.bundle.foreign.load_foreign`.
    """
    from zoo.bundle.document import DOCUMENT
    from zoo.bundle.read import load_bundle

    if found.files is not None and DOCUMENT not in found.files:
        from zoo.bundle.foreign import load_foreign

        foreign = load_foreign(
            found.path, found.files, registry, name=found.name, revision=found.revision, device=device
        )
        if foreign is not None:
            return foreign
    return load_bundle(found.path, registry, name=found.name, revision=found.revision, device=device, files=found.files)


def evaluate_model(
    loaded: LoadedModel,
    data: Any,
    *,
    split: str | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    progress: Any = None,
    kept: bool = True,
    note: Callable[[str], None] | None = None,
    **options: Any,
) -> Report:
    """Measure a loaded model: every readable sample once, under the exact transform, classes held to the model's.

    Args:
        loaded: the model.
        data: as for fine-tuning.
        split: which split; ``test`` where there is one, else ``val``, else all samples.
        batch_size: samples at once.
        workers: processes that decode; None decides by timing the first batches.
        progress: called with the number of samples of each batch.
        kept: take features of these samples that a run with the same backbone has kept on the disk, if there are.
        note: told if that was so.
        options: of :func:`zoo.data.open_data`.
    """
    from zoo.evaluation.predictions import predict_split
    from zoo.evaluation.report import report_columns

    device = next(loaded.model.parameters()).device
    options = {**loaded.document.drawn(), **options}
    opened = open_labelled(data, loaded, split, options)
    from zoo.training.pipeline import Pipeline

    pipeline = Pipeline(loaded.model.backbone, loaded.input, device)
    found = None
    if kept:
        from zoo.features.known import predict_known

        found = predict_known(loaded.model, opened, pipeline, batch_size=batch_size)
    if found is None:
        found = predict_split(loaded.model, opened, pipeline, batch_size=batch_size, workers=workers, progress=progress)
    elif note is not None:
        note(f"features of {len(found.indices):,} samples read from the cache")
    return report_columns(loaded.document.columns, found, opened)


def open_labelled(data: Any, loaded: LoadedModel, split: str | None, options: dict[str, Any]) -> Any:
    """The split to measure on, its label map held to the model's."""
    from zoo.data import open_data

    seen = loaded.document.data.get("fingerprint")
    opened = open_data(data, labels=loaded.document.columns, trained_on=seen, split=split, **options)
    return opened.split(split) if split is not None else opened.evaluation
