"""Publishing: check access, prove the bundle in a fresh process, then push it as one commit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_registry import UsageError

from zoo.bundle.verify import verify_in_fresh_process
from zoo.hub import open_hub
from zoo.hub.base import Pushed, RepoFile
from zoo.hub.files import check_listed, list_folder, sha256_of, verify_folder
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
    progress: Any = None,
) -> Pushed:
    """Publish the model of a run, or a bundle folder.

    Raises:
        IntegrityError: files differ from the manifest, or a fresh process does not reproduce the golden logits.
        HubError, ConflictError: see :class:`zoo.hub.base.Hub`.
    """
    folder = bundle_folder(run)
    target = open_hub(hub)
    target.check_push(name)
    prove(folder)
    return target.push(
        folder, name, private=private, message="Publish a model of the zoo", parent=parent, progress=progress
    )


def preview(run: Path, name: str, *, hub: str | None = None) -> Preview:
    """What :func:`publish` would do, with every check of it but without publishing."""
    folder = bundle_folder(run)
    target = open_hub(hub)
    target.check_push(name)
    files = prove(folder)
    card = folder / "README.md"
    return Preview(f"{name} on {target.location}", files, card.read_text(encoding="utf-8") if card.is_file() else "")


def prove(folder: Path) -> dict[str, int]:
    """Every file is the one that was written, none was added, and a fresh process finds the same logits.

    Returns:
        file -> bytes, in the order of publishing.

    Raises:
        IntegrityError: one of these does not hold.
        DataError: the folder holds what may not be published.
    """
    listed = verify_folder(folder, str(folder))
    present = {}
    for name in list_folder(folder):
        file = folder / name
        known = listed.get(name)
        present[name] = known or RepoFile(path=name, size=file.stat().st_size, sha256=sha256_of(file))
    check_listed(listed, present, str(folder))
    verify_in_fresh_process(folder)
    return {name: (folder / name).stat().st_size for name in present}


def bundle_folder(run: Path) -> Path:
    """The bundle's folder of a run or bundle folder.

    Raises:
        UsageError: there is none.
    """
    if not run.exists():
        raise UsageError(f"no run or bundle {str(run)!r}", hint="a run folder is what zoo finetune --out names")
    return bundle_in(run)
