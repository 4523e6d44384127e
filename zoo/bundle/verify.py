"""``python -m zoo.bundle.verify FOLDER``: load a bundle in this fresh process and compare its golden logits.

Prints one JSON object: ``{"ok": true, "difference": d}``, or ``{"ok": false, "kind", "message", "hint"}`` and exits
with the error's code. ``zoo push`` runs it before it publishes anything.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from zoo_registry import IntegrityError, ZooError


def verify_in_fresh_process(path: Path) -> float:
    """Verify a bundle in a process of its own; returns the largest difference of the golden logits.

    Raises:
        IntegrityError: it cannot be loaded, or its logits differ.
    """
    command = [sys.executable, "-m", "zoo.bundle.verify", str(path)]
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
    from zoo_registry import Registry

    from zoo.bundle.read import verify_bundle

    try:
        difference = verify_bundle(Path(arguments[0]), Registry())
    except ZooError as error:
        print(json.dumps({"ok": False, **error.to_json()}))
        return error.exit_code
    print(json.dumps({"ok": True, "difference": difference}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
