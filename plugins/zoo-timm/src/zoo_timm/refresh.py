"""``python -m zoo_timm.refresh``: offer what the installed timm has beyond the shipped catalogue.

Measures the architectures and tags that the catalogue does not know (about a second each, no weights, no network) and
writes them to ``~/.cache/zoo-timm/timm-VERSION.json``. The hook reads that file as long as this timm version is
installed; another version needs another refresh.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before timm: two of its hybrids ask for the weights of their stem
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

import timm

from zoo_timm import generating
from zoo_timm.catalogue import PATH, cache_file, load
from zoo_timm.measuring import Measured, measure, measure_numbers


def refresh() -> tuple[Path | None, int]:
    """Measure and write; returns the file (None where timm has nothing new) and the number of new names.

    Raises:
        PluginError: the shipped catalogue cannot be read.
        OSError: the cache folder cannot be written.
    """
    known = set(load(PATH)["name"])
    new = [name for name in generating.names() if name not in known]
    path = cache_file(timm.__version__)
    if not new:
        path.unlink(missing_ok=True)
        return None, 0
    data = generating.assemble(_measured(new), None, only=new)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(generating.to_text(data))
    draft.replace(path)
    return path, len(data["name"])


def _measured(names: Iterable[str]) -> generating.Measurements:
    """Name -> measurements, numbers compared too."""
    found: generating.Measurements = {name: _attempt(name, measure) for name in names}
    for name in generating.numeric_probes(found):
        found[name] = _attempt(name.removesuffix(generating.NUMBERS), measure_numbers)
    return found


def _attempt(name: str, step: Callable[[str], Measured]) -> dict[str, Any]:
    try:
        return dataclasses.asdict(step(name))
    except Exception as error:  # one architecture that timm itself cannot build must not stop the others
        print(f"{name}: {error}", file=sys.stderr)
        return {"failed": str(error)}


if __name__ == "__main__":
    written, count = refresh()
    print(json.dumps({"timm": timm.__version__, "file": str(written) if written else None, "new": count}))
