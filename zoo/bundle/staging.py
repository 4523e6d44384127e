"""A bundle with some files changed, for as long as a push takes: the bundle itself stays as the run left it."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from zoo.bundle.write import write_manifest
from zoo.files import write_bytes
from zoo.hub.files import MANIFEST

PREFIX = ".push-"
STRAY_SECONDS = 24 * 3600


@contextmanager
def staged(
    folder: Path, files: Iterable[str], changes: Mapping[str, bytes], near: Path | None = None
) -> Iterator[Path]:
    """A folder with these files of the bundle, hard links where the disk has them, and the changed ones anew.

    Args:
        folder: the bundle; nothing in it is changed.
        files: which of its files.
        changes: file -> new content.
        near: a folder on the bundle's disk to make it in; None: where temporary files go.
    """
    place = near if near is not None and os.access(near, os.W_OK | os.X_OK) else None
    if place is not None:
        _sweep(place)
    with TemporaryDirectory(prefix=PREFIX, dir=place) as made:
        to = Path(made)
        for name in files:
            if name not in changes and name != MANIFEST:
                (to / name).parent.mkdir(parents=True, exist_ok=True)
                _link(folder / name, to / name)
        for name, content in changes.items():
            write_bytes(to / name, content)
        write_manifest(to)
        yield to


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _sweep(place: Path) -> None:
    """Remove what a killed push left more than a day ago."""
    for stray in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if stray.stat().st_mtime < time.time() - STRAY_SECONDS:
                shutil.rmtree(stray, ignore_errors=True)
