"""Publishing: check access, prove the bundle in a fresh process, then push it as one commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zoo_registry import Registry, UsageError

from zoo.bundle.small import DELTA
from zoo.bundle.verify import verify_in_fresh_process
from zoo.hub import open_hub
from zoo.hub.base import Pushed, RepoFile
from zoo.hub.files import check_listed, list_folder, sha256_of, verify_folder
from zoo.hub.tags import check_tag, require_free, set_tag
from zoo.models import bundle_in


@dataclass(frozen=True)
class Preview:
    """What a push would publish: target, files with sizes, and the card."""

    target: str
    files: dict[str, int]
    card: str


def publish(
    run: Path,
    name: str,
    *,
    hub: str | None = None,
    private: bool = True,
    parent: str | None = None,
    delta: bool = False,
    tag: str | None = None,
    told: Callable[[str], Any] | None = None,
    progress: Any = None,
) -> Pushed:
    """Publish the model of a run, or a bundle folder.

    Args:
        run: the run's or the bundle's folder.
        name: ``owner/name``.
        hub: where to.
        private: who may read it, where the hub knows that.
        parent: the head that the hub must have.
        delta: store only what differs from the base weights.
        tag: a name for the revision, set after the push; one that is taken by another is never moved.
        told: called with a line on the delta's size.
        progress: see :data:`zoo.hub.base.Progress`.

    Raises:
        UsageError: there is nothing to publish, or a delta of it makes no sense.
        IntegrityError: files differ from the manifest, or a fresh process does not reproduce the golden logits.
        HubError, ConflictError: see :class:`zoo.hub.base.Hub`.
    """
    folder = bundle_folder(run)
    target = open_hub(hub)
    if tag is not None:
        check_tag(tag)
    target.check_push(name)
    with _staged(folder, hub, delta, told) as staged:
        if tag is not None:
            require_free(target, name, tag, staged)
        prove(staged, hub)
        pushed = target.push(
            staged, name, private=private, message="Publish a model of the zoo", parent=parent, progress=progress
        )
    if tag is not None:
        set_tag(target, pushed.name, tag, pushed.revision)
    return pushed


def preview(
    run: Path,
    name: str,
    *,
    hub: str | None = None,
    delta: bool = False,
    tag: str | None = None,
    told: Callable[[str], Any] | None = None,
) -> Preview:
    """What :func:`publish` would do, with every check of it but without publishing."""
    folder = bundle_folder(run)
    target = open_hub(hub)
    if tag is not None:
        check_tag(tag)
    target.check_push(name)
    with _staged(folder, hub, delta, told) as staged:
        if tag is not None:
            require_free(target, name, tag, staged)
        files = prove(staged, hub)
        card = staged / "README.md"
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return Preview(f"{name} on {target.location}", files, text)


@contextmanager
def _staged(folder: Path, hub: str | None, delta: bool, told: Callable[[str], Any] | None) -> Iterator[Path]:
    """The folder to publish: the bundle's own, or, for as long as it is needed, one with its delta."""
    if not delta or (folder / DELTA).is_file():
        yield folder
        return
    from zoo.bundle.delta import write_delta

    files = check_folder(folder)
    with TemporaryDirectory(prefix="zoo-delta-") as made:
        size = write_delta(folder, Path(made), files, Registry(), hub=hub)
        if told is not None:
            told(f"delta: {size}")
        yield Path(made)


def prove(folder: Path, hub: str | None = None) -> dict[str, int]:
    """Every file is the one that was written, none was added, and a fresh process finds the same logits.

    Args:
        folder: the bundle, whole or a delta.
        hub: where a delta's base may be.

    Returns:
        file -> bytes, in the order of publishing.

    Raises:
        IntegrityError: one of these does not hold.
        DataError: the folder holds what may not be published.
    """
    files = check_folder(folder)
    verify_in_fresh_process(folder, *([hub] if hub and DELTA in files else []))
    return files


def check_folder(folder: Path) -> dict[str, int]:
    """Every file is the one that was written, and none was added; returns file -> bytes.

    Raises:
        IntegrityError, DataError: as :func:`prove`.
    """
    listed = verify_folder(folder, str(folder))
    present = {}
    for name in list_folder(folder):
        file = folder / name
        known = listed.get(name)
        present[name] = known or RepoFile(path=name, size=file.stat().st_size, sha256=sha256_of(file))
    check_listed(listed, present, str(folder))
    return {name: (folder / name).stat().st_size for name in present}


def bundle_folder(run: Path) -> Path:
    """The bundle's folder of a run or bundle folder.

    Raises:
        UsageError: there is none.
    """
    if not run.exists():
        raise UsageError(f"no run or bundle {str(run)!r}", hint="a run folder is what zoo finetune --out names")
    return bundle_in(run)
