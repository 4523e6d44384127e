"""``python -m zoo``."""

from __future__ import annotations

from zoo.cli.main import run

if __name__ == "__main__":
    run()
