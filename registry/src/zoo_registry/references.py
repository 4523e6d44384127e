"""Lazy references: ``"package.module:callable"`` strings, imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from zoo_registry.errors import PluginError


def load_reference(reference: str, *, owner: str) -> Callable[..., Any]:
    """Import the callable that ``reference`` names.

    Args:
        reference: ``"package.module:callable"``.
        owner: full name of the spec it belongs to, for the message.

    Raises:
        PluginError: the import failed or there is no such callable; names the reference and the original reason.
    """
    module_name, _, attribute = reference.partition(":")
    try:
        target = getattr(importlib.import_module(module_name), attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, and what compiled extensions raise beside Exception
        raise PluginError(
            f"{owner}: cannot load {reference!r}: {type(error).__name__}: {one_line(error)}",
            hint=f"is everything that {module_name.partition('.')[0]!r} needs installed?",
        ) from error
    if not callable(target):
        raise PluginError(f"{owner}: {reference!r} is not callable")
    return target  # type: ignore[no-any-return]


def one_line(error: BaseException, limit: int = 200) -> str:
    """The error's text on one line, cut to ``limit`` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
