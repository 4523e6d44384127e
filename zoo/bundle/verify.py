"""``python -m zoo.bundle.verify FOLDER [HUB]``: load a bundle in this fresh process and compare its golden logits.

A delta is made whole first, from its base, on ``HUB`` or wherever it is to be had.

Prints one JSON object: ``{"ok": true, "difference": d}``, or ``{"ok": false, "kind", "message", "hint"}`` and exits
with the error's code. ``zoo push`` runs it before it publishes anything.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from zoo_registry import IntegrityError, Registry, ZooError

from zoo.hub.files import verify_folder


def verify_in_fresh_process(path: Path, hub: str | None = None) -> float:
    """Verify a bundle in a process of its own; returns the largest difference of the golden logits.

    Args:
        path: the bundle, whole or a delta.
        hub: where a delta's base may be.

    Raises:
        IntegrityError: it cannot be loaded, or its logits differ.
    """
    command = [sys.executable, "-m", "zoo.bundle.verify", str(path), *([hub] if hub else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise IntegrityError(f"{path}: a fresh process could not load the bundle: {reason}") from None
    if not answer["ok"]:
        raise IntegrityError(answer["message"], hint=answer["hint"])
    return float(answer["difference"])


def main(arguments: list[str]) -> int:
    """The module's command."""
    try:
        difference = _verify(Path(arguments[0]), Registry(), arguments[1] if len(arguments) > 1 else None)
    except ZooError as error:
        print(json.dumps({"ok": False, **error.to_json()}))
        return error.exit_code
    print(json.dumps({"ok": True, "difference": difference}))
    return 0


def _verify(path: Path, registry: Registry, hub: str | None) -> float:
    from zoo.bundle.read import verify_bundle
    from zoo.bundle.small import DELTA

    if not (path / DELTA).is_file():
        return verify_bundle(path, registry)
    from zoo.bundle.delta import rebuild_whole

    with TemporaryDirectory() as folder:  # not the cache: nothing made before may vouch for it
        rebuild_whole(path, Path(folder), verify_folder(path, str(path)), registry, hub=hub, where=str(path))
        return verify_bundle(Path(folder), registry, name=str(path))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
