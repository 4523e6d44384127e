"""Fixtures that all tests may use."""

from __future__ import annotations

import signal

pytest_plugins = ["hub_fixtures", "zoo_runs", "small_forms"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background by a shell; the tests send SIGINT
    signal.signal(signal.SIGINT, signal.default_int_handler)
