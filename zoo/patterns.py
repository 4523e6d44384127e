"""Patterns of names, as ``zoo list`` and ``zoo.list_backbones`` take them."""

from __future__ import annotations

import fnmatch


def matches(name: str, pattern: str | None) -> bool:
    """Whether a name has the pattern in it, or fits it as a glob (with or without the namespace)."""
    if pattern is None:
        return True
    if any(c in pattern for c in "*?["):
        return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.rpartition("/")[2], pattern)
    return pattern in name
