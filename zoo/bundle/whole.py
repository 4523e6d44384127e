"""Deltas made whole: each once, into the cache, where it lies as a full bundle that needs neither base nor network."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from zoo_registry import HubError, IntegrityError, Registry

from zoo.bundle.small import DELTA
from zoo.hub.files import MANIFEST, sha256_of, verify_folder

STRAY_SECONDS = 24 * 3600
log = logging.getLogger("zoo.bundle")


def whole_folder() -> Path:
    """Where they lie: ``HF_HOME/zoo/whole``, a folder each, named by the sha256 of the delta's manifest (its start)."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "zoo" / "whole"


def make_whole(
    path: Path,
    files: Iterable[str],
    *,
    where: str,
    registry: Registry | None = None,
    hub: str | None = None,
    offline: bool = False,
) -> tuple[Path, tuple[str, ...]]:
    """A bundle's folder and files as they are, or, of a delta, those of the whole bundle that it stands for.

    Args:
        path: the bundle.
        files: its files, verified just now.
        where: what messages call it.
        registry: the installed plugins; found where it is needed and not given.
        hub, offline: where the base may be.

    Raises:
        HubError: the base cannot be had, or the cache not be written.
        IntegrityError: what comes of it is not what was published.
        PluginError: a plugin that is needed is not installed.
    """
    names = tuple(files)
    if DELTA not in names:
        return path, names
    spot = whole_folder() / sha256_of(path / MANIFEST)[:40]
    found = _verified(spot, where)
    if found is not None:
        return spot, found
    from zoo.bundle.delta import rebuild_whole
    from zoo.bundle.read import verify_bundle
    from zoo.files import write_folder

    known = registry or Registry()
    _sweep(spot.parent)

    def fill(to: Path) -> None:
        record = rebuild_whole(path, to, names, known, hub=hub, offline=offline, where=where)
        if record.from_adapter:  # its bits are this machine's; of all others the sha256 has spoken
            verify_bundle(to, known, name=where)

    try:
        write_folder(spot, fill)
    except OSError as error:
        found = _verified(spot, where)  # another process may have been faster
        if found is None:
            reason = f"cannot write {str(spot)!r}: {error.strerror or error}"
            raise HubError(reason, hint="free space, or set HF_HOME elsewhere") from error
    return spot, tuple(verify_folder(spot, where))


def _sweep(folder: Path) -> None:
    """Remove what a killed process left behind more than a day ago."""
    for stray in folder.glob(".*"):
        with contextlib.suppress(OSError):
            if stray.stat().st_mtime < time.time() - STRAY_SECONDS:
                shutil.rmtree(stray, ignore_errors=True)


def _verified(spot: Path, where: str) -> tuple[str, ...] | None:
    """The files of a bundle made whole before, or None where it is not there or damaged."""
    if not spot.is_dir():
        return None
    try:
        return tuple(verify_folder(spot, where))
    except IntegrityError as error:
        log.warning("%s; making it anew", error.message)
        return None
