"""Loose files for prediction: no labels, no splits."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from zoo_registry.errors import DataError, UsageError, did_you_mean

from zoo.data.dataset import Split
from zoo.data.folder import Scanner

log = logging.getLogger("zoo.data")


def open_files(paths: str | Path | Iterable[str | Path], *, follow_links: bool = False) -> Split:
    """A split named ``files`` without targets, in the order given; folders give all images below them.

    A file that is named is taken whatever its suffix; a file that comes twice is taken once. ``ids`` are the paths
    as given.

    Raises:
        UsageError: a path that does not exist.
        DataError: no image at all.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    found: dict[str, int] = {}
    for path in map(Path, given):
        if os.path.isdir(path):
            scanner = Scanner(path, follow_links)
            found.update((f.path, f.size) for f in scanner.images(str(path)))
            left = {what: n for what, n in scanner.ignored.items() if what != "hidden"}
            if left:
                log.warning("ignored in %s: %s", path, ", ".join(f"{n} {what}" for what, n in sorted(left.items())))
        elif os.path.isfile(path):
            found[str(path)] = path.stat().st_size
        else:
            raise UsageError(f"no file or folder {str(path)!r}", hint=_near(path))
    if not found:
        raise DataError(
            f"no images in {', '.join(map(str, given)) or 'an empty list'}", hint="give image files or folders"
        )
    names = list(found)
    return Split(name="files", ids=names, sources=names, sizes=list(found.values()), cache_bytes=0)


def _near(path: Path) -> str:
    try:
        return did_you_mean(path.name, sorted(os.listdir(path.parent))) or "check the path"
    except OSError:
        return f"{str(path.parent)!r} does not exist either"
