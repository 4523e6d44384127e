"""``zoo plugin check``: the conformance kit's checks, run one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo_registry import Registry
from zoo_registry.conformance import Outcome, iterate_checks, run_check

DEFAULT_LIMIT = 5
"""Of a namespace, so many specs of each kind are checked unless asked otherwise; a catalogue may have thousands."""


def check_plugin(
    registry: Registry, name: str, kind: str | None = None, *, limit: int | None = DEFAULT_LIMIT
) -> Iterator[Outcome]:
    """Run the checks of a plugin or spec, each outcome as it comes.

    Raises:
        UnknownNameError, PluginError, UsageError: as :func:`zoo_registry.conformance.iterate_checks`, before any runs.
    """
    for check in iterate_checks(registry, name, kind, limit=limit):
        yield run_check(check)


def outcome_row(outcome: Outcome) -> dict[str, Any]:
    """The public form: ``check kind spec status message seconds``."""
    return {
        "check": outcome.check.name,
        "kind": outcome.check.kind,
        "spec": outcome.check.spec,
        "status": outcome.status,
        "message": outcome.message,
        "seconds": round(outcome.seconds, 3),
    }
