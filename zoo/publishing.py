"""Publishing: check access, prove the bundle in a fresh process, then push it as one commit.

What is published is the bundle with two files written anew: ``zoo.json`` says what was proved, and so does the card.
The bundle on the disk stays as the run left it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from zoo_registry import Registry, UsageError

from zoo.bundle import proof as proofs
from zoo.bundle.document import DOCUMENT, read_document
from zoo.bundle.proof import Proof
from zoo.bundle.small import DELTA
from zoo.bundle.verify import Checked, verify_in_fresh_process
from zoo.cards import check_licence, render
from zoo.deadline import push_deadline
from zoo.hub import open_hub
from zoo.hub.base import Pushed, RepoFile
from zoo.hub.files import check_listed, list_folder, read_json, sha256_of, verify_folder
from zoo.hub.tags import check_tag, require_free, set_tag
from zoo.models import bundle_in
from zoo.runs import RunFolder


@dataclass(frozen=True)
class Preview:
    """What a push would publish: target, files with sizes, the card, and the licence."""

    target: str
    files: dict[str, int]
    card: str
    license: str


def publish(
    run: Path,
    name: str,
    *,
    hub: str | None = None,
    private: bool = True,
    parent: str | None = None,
    delta: bool = False,
    tag: str | None = None,
    metrics: bool = True,
    license: str | None = None,
    deadline: float | None = None,
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
        metrics: measure again, where the run's data is still there; False publishes the numbers as not proved.
        license: the model's licence, in place of that of the base weights, see :mod:`zoo.bundle.licences`.
        deadline: seconds for all waiting for the hub, see :func:`zoo.deadline.push_deadline`.
        told: called with a line on the licence, on the delta's size, and on what was measured again.
        progress: see :data:`zoo.hub.base.Progress`.

    Raises:
        UsageError: there is nothing to publish, or a delta of it makes no sense.
        IntegrityError: files differ from the manifest, or a fresh process does not reproduce logits or metrics.
        HubError, ConflictError: see :class:`zoo.hub.base.Hub`; sources of the licence that do not agree.
    """
    folder = bundle_folder(run)
    target = open_hub(hub)
    if tag is not None:
        check_tag(tag)
    until = push_deadline(deadline)
    target.check_push(name, until)
    with ExitStack() as stack:
        with until.paused():
            ready = stack.enter_context(_ready(folder, name, hub, delta, metrics, license, told))
        if tag is not None:
            require_free(target, name, tag, ready)
        message = "Publish a model of the zoo"
        pushed = target.push(
            ready, name, private=private, message=message, parent=parent, progress=progress, deadline=until
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
    metrics: bool = True,
    license: str | None = None,
    told: Callable[[str], Any] | None = None,
) -> Preview:
    """What :func:`publish` would do, with every check of it but without publishing."""
    folder = bundle_folder(run)
    target = open_hub(hub)
    if tag is not None:
        check_tag(tag)
    target.check_push(name)
    with _ready(folder, name, hub, delta, metrics, license, told) as ready:
        if tag is not None:
            require_free(target, name, tag, ready)
        files = {path: (ready / path).stat().st_size for path in list_folder(ready)}
        card = ready / "README.md"
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        licence = check_licence(ready).name
    return Preview(f"{name} on {target.location}", files, text, licence)


@contextmanager
def _ready(
    folder: Path,
    name: str,
    hub: str | None,
    delta: bool,
    metrics: bool,
    license: str | None,
    told: Callable[[str], Any] | None,
) -> Iterator[Path]:
    """The folder to publish, proved, for as long as it is needed."""
    run = run_of(folder)
    for line in check_licence(folder, license).lines:
        if told is not None:
            told(line)
    with _staged(folder, hub, delta, told) as small:
        files = check_folder(small)
        checked = verify_in_fresh_process(small, hub, run if metrics else None, told)
        with _told(small, files, name, proof_of(small, checked, metrics), license, run) as ready:
            yield ready


def run_of(folder: Path) -> Path | None:
    """The run whose bundle this is, or None."""
    run = RunFolder(folder.absolute().parent)
    return run.path if run.is_run() and run.model.name == folder.name else None


def proof_of(folder: Path, checked: Checked, metrics: bool) -> Proof:
    """What ``zoo.json`` is to say of it."""
    recorded = read_document(folder / DOCUMENT, where=str(folder)).metrics
    found = {split: tuple(sorted(values)) for split, values in checked.metrics.items()}
    whole = all(set(values) <= set(found.get(split, ())) for split, values in recorded.items())
    why = None if whole else (checked.why or proofs.NO_SPLIT) if metrics else proofs.NOT_ASKED
    return Proof(metrics=found, why=why)


@contextmanager
def _told(
    folder: Path, files: dict[str, int], name: str, proof: Proof, license: str | None, run: Path | None
) -> Iterator[Path]:
    """The folder with the proof and the licence in ``zoo.json`` and in the card, which names the repo."""
    from zoo.bundle.card import CARD
    from zoo.bundle.staging import staged
    from zoo.files import json_bytes

    rendered = render(folder, name=name, license=license, proof=proof)
    values = {**read_json(folder / DOCUMENT, DOCUMENT), **rendered.document.to_json()}
    with staged(folder, files, {DOCUMENT: json_bytes(values), CARD: rendered.text.encode()}, near=run) as ready:
        yield ready


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


def check_folder(folder: Path) -> dict[str, int]:
    """Every file is the one that was written, and none was added; returns file -> bytes.

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
    return {name: (folder / name).stat().st_size for name in present}


def bundle_folder(run: Path) -> Path:
    """The bundle's folder of a run or bundle folder.

    Raises:
        UsageError: there is none.
    """
    if not run.exists():
        raise UsageError(f"no run or bundle {str(run)!r}", hint="a run folder is what zoo finetune --out names")
    return bundle_in(run)
