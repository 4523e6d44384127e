"""Fixtures that all tests may use, and the surroundings that none of them can harm or be harmed by."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

# Before huggingface_hub is imported, which reads these once: a home of the suite's own, so that no test reads or writes
# the user's cache or login, and no setting of the machine changes a result.
_HOME = Path(tempfile.mkdtemp(prefix="zoo-tests-home-"))
_OWNER = os.getpid()
for _name in [n for n in os.environ if n.startswith(("HF_", "HUGGING_FACE_", "ZOO_", "TRANSFORMERS_"))]:
    del os.environ[_name]
os.environ |= {"HF_HOME": str(_HOME), "HF_HUB_DISABLE_TELEMETRY": "1"}

pytest_plugins = ["hub_fixtures", "canary", "zoo_runs", "small_forms"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background by a shell; the tests send SIGINT
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure() -> None:
    """Every test has a token, the one of the user ``me`` of the loopback hubs; see ``support/canary.py``."""
    import canary

    os.environ["HF_TOKEN"] = canary.TOKEN
    (_HOME / "token").write_text(canary.STORED)


@atexit.register
def _clear() -> None:
    if os.getpid() == _OWNER:
        shutil.rmtree(_HOME, ignore_errors=True)
