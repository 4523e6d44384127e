"""The error tree: one class per exit code.

::

    ZooError                1  failed
    ├── UsageError          2  wrong usage, option or name
    │   ├── UnknownNameError       no such backbone, head, strategy, option...
    │   └── AmbiguousNameError     a short name that several plugins offer
    ├── DataError           3  data refused
    ├── HubError            4  hub unreachable, or not in the cache
    ├── IntegrityError      5  bytes are not what they should be
    ├── ConflictError       6  somebody else was there first
    ├── PluginError         7  broken or missing plugin
    └── RunStoppedError     8  a run stopped and can be resumed

Every message is one line that names the thing; ``hint`` is the next step. The command line prints
``error: <message>`` and ``hint: <hint>`` and exits with ``exit_code``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZooError(Exception):
    """Base of every error the zoo raises on purpose.

    Args:
        message: one line that names the thing that is wrong.
        hint: the next step, or None where there is none.
    """

    exit_code = 1
    kind = "failed"

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def to_json(self) -> dict[str, str | None]:
        """The public form ``{"kind", "message", "hint"}`` that ``--json`` prints."""
        return {"kind": self.kind, "message": self.message, "hint": self.hint}


class UsageError(ZooError):
    """Wrong usage, option or value."""

    exit_code = 2
    kind = "usage"


class UnknownNameError(UsageError):
    """A name that nothing installed answers to."""

    kind = "unknown-name"


class AmbiguousNameError(UsageError):
    """A short name that more than one plugin offers."""

    kind = "ambiguous-name"


class DataError(ZooError):
    """The data cannot be used as it is."""

    exit_code = 3
    kind = "data"


class HubError(ZooError):
    """The hub cannot be reached, says no, or the file is not in the cache."""

    exit_code = 4
    kind = "hub"


class IntegrityError(ZooError):
    """Bytes differ from what was published."""

    exit_code = 5
    kind = "integrity"


class ConflictError(ZooError):
    """The target changed meanwhile, or is in use."""

    exit_code = 6
    kind = "conflict"


class PluginError(ZooError):
    """A plugin is missing or broken."""

    exit_code = 7
    kind = "plugin"


class RunStoppedError(ZooError):
    """A run stopped before its end; its folder can be resumed."""

    exit_code = 8
    kind = "run-stopped"


def did_you_mean(name: str, candidates: Iterable[str], *, limit: int = 3) -> str | None:
    """A hint ``did you mean 'a', 'b'?`` with the closest candidates, or None where nothing is close.

    A candidate that starts with ``name`` counts as close, whatever its length.
    """
    pool = list(dict.fromkeys(candidates))
    starts = [c for c in pool if c.startswith(name)] if name else []
    close = list(dict.fromkeys([*starts[:limit], *difflib.get_close_matches(name, pool, n=limit, cutoff=0.6)]))
    if not close:
        return None
    return "did you mean " + ", ".join(repr(c) for c in close[:limit]) + "?"
