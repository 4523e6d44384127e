"""``zoo plugin list``: one row for each installed plugin, whatever state it is in."""

from __future__ import annotations

from typing import Any

from zoo_registry import Plugin, Registry
from zoo_registry.specs import KINDS

PLURALS = {kind: f"{kind}s" for kind in KINDS} | {"strategy": "strategies"}


def plugin_rows(registry: Registry) -> list[dict[str, Any]]:
    """Rows ordered by namespace.

    Each has ``namespace distribution version status summary backbones heads strategies recipes trackers formats stage
    reason``; ``status`` is ``ok``, ``broken`` or ``disabled``, ``stage`` and ``reason`` are None unless it is broken.
    """
    return [_row(plugin) for plugin in registry.plugins]


def _row(plugin: Plugin) -> dict[str, Any]:
    return {
        "namespace": plugin.namespace,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "status": plugin.status,
        "summary": plugin.info.summary if plugin.info else "",
        **{PLURALS[kind]: len(plugin.specs[kind]) for kind in KINDS},
        "stage": plugin.problem.stage if plugin.problem else None,
        "reason": plugin.problem.reason if plugin.problem else None,
    }
