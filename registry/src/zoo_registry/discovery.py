"""Discovery of installed plugins: one at a time, so that a broken one is a row and not a traceback.

pluggy's own entry-point loading stops at the first failing import, skips a second claim to one name without a word, and
lets one raising hook abort the whole call. So the loop is ours; pluggy keeps the hooks and their validation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

import pluggy

from zoo_registry import hooks
from zoo_registry.errors import ZooError, did_you_mean
from zoo_registry.references import one_line
from zoo_registry.specs import CONTRACT_VERSION, SPEC_TYPES, PluginInfo, Spec

GROUP = "zoo"
_NAMESPACE = re.compile(r"^[a-z][a-z0-9-]*$")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a plugin is off.

    Attributes:
        namespace: the entry point's name.
        distribution, version: who installed it.
        stage: ``name``, ``conflict``, ``import``, ``contract``, ``hooks``, or the hook that failed.
        reason: one line.
    """

    namespace: str
    distribution: str
    version: str
    stage: str
    reason: str

    def __str__(self) -> str:
        return f"plugin {self.namespace!r} ({self.distribution} {self.version}) is off: {self.stage}: {self.reason}"


@dataclass(kw_only=True)
class Plugin:
    """An installed plugin: its origin, what it offers, and why it is off where it is."""

    namespace: str
    distribution: str
    version: str
    status: str = "ok"
    info: PluginInfo | None = None
    problem: Problem | None = None
    specs: dict[str, list[Spec]] = field(default_factory=lambda: {kind: [] for kind in SPEC_TYPES})

    def fail(self, stage: str, reason: str) -> None:
        """Switch the plugin off; whatever it had registered is rolled back."""
        self.status = "broken"
        self.specs = {kind: [] for kind in SPEC_TYPES}
        self.problem = Problem(
            namespace=self.namespace,
            distribution=self.distribution,
            version=self.version,
            stage=stage,
            reason=reason,
        )


@dataclass(frozen=True)
class Selection:
    """What the environment variable ``ZOO_PLUGINS`` says.

    ``timm,basics`` allows only these namespaces; ``timm=zoo-timm`` decides which distribution owns a namespace that two
    claim; both forms mix, and a list of decisions alone allows everything else too. An empty value allows none.
    """

    allowed: frozenset[str] | None
    owners: Mapping[str, str]

    @classmethod
    def from_environment(cls) -> Selection:
        """Read ``ZOO_PLUGINS``."""
        text = os.environ.get("ZOO_PLUGINS")
        if text is None:
            return cls(None, {})
        items = [item.strip() for item in text.split(",") if item.strip()]
        owners = {name.strip(): _normal(owner) for name, _, owner in (i.partition("=") for i in items) if owner}
        plain = [item for item in items if "=" not in item]
        allowed = None if owners and not plain else frozenset(plain) | owners.keys()
        return cls(allowed, owners)


def discover(points: Iterable[EntryPoint] | None = None, selection: Selection | None = None) -> list[Plugin]:
    """Load every plugin that the selection allows, in the order of their namespaces.

    Args:
        points: the entry points to look at; those of the group ``zoo`` by default.
        selection: what is allowed; the environment's by default.

    Raises:
        ZooError: only where ``ZOO_STRICT=1`` is set and a plugin is broken.
    """
    chosen = selection if selection is not None else Selection.from_environment()
    by_namespace: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP) if points is None else points:
        by_namespace.setdefault(point.name, []).append(point)
    plugins = [p for name in sorted(by_namespace) for p in _load_namespace(name, by_namespace[name], chosen)]
    if os.environ.get("ZOO_STRICT") == "1":
        for plugin in plugins:
            if plugin.problem:
                raise ZooError(str(plugin.problem), hint="unset ZOO_STRICT to go on without it")
    return plugins


def _load_namespace(namespace: str, points: Sequence[EntryPoint], selection: Selection) -> list[Plugin]:
    points = _distinct(points)
    plugins = [_plugin_of(point) for point in points]
    if selection.allowed is not None and namespace not in selection.allowed:
        for plugin in plugins:
            plugin.status = "disabled"
        return plugins
    owner = selection.owners.get(namespace)
    if owner is not None:
        for plugin in plugins:
            if _normal(plugin.distribution) != owner:
                plugin.status = "disabled"
    active = [(plugin, point) for plugin, point in zip(plugins, points, strict=True) if plugin.status == "ok"]
    if len(active) > 1:
        names = " and ".join(plugin.distribution for plugin, _ in active)
        choice = " or ".join(f"ZOO_PLUGINS={namespace}={plugin.distribution}" for plugin, _ in active)
        for plugin, _ in active:
            plugin.fail("conflict", f"{names} both claim the namespace {namespace!r}; decide with {choice}")
        return plugins
    for plugin, point in active:
        _load(plugin, point)
    return plugins


def _distinct(points: Sequence[EntryPoint]) -> list[EntryPoint]:
    """One entry point a distribution: an editable install may show the same one twice."""
    seen = {(_normal(point.dist.name) if point.dist else "", point.value): point for point in points}
    return sorted(seen.values(), key=lambda point: point.dist.name if point.dist else "")


def _plugin_of(point: EntryPoint) -> Plugin:
    name, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "unknown")
    return Plugin(namespace=point.name, distribution=name, version=version)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _load(plugin: Plugin, point: EntryPoint) -> None:
    """Import one plugin and collect what its hooks return; any failure switches it off."""
    if not _NAMESPACE.match(plugin.namespace):
        plugin.fail("name", "a namespace is lower-case letters, digits and '-', starting with a letter")
        return
    try:
        module = point.load()
    except (Exception, SystemExit) as error:
        plugin.fail("import", f"{type(error).__name__}: {one_line(error)}")
        return
    stage = "hooks"
    try:
        manager = pluggy.PluginManager(hooks.PROJECT)
        manager.add_hookspecs(hooks)
        problem = _hook_problem(module, manager, plugin.namespace)
        if problem:
            plugin.fail(stage, problem)
            return
        for hook, kind in hooks.HOOKS.items():
            stage = hook
            for implementation in getattr(manager.hook, hook).get_hookimpls():
                problem = _take(plugin, kind, implementation.function())
                if problem:
                    plugin.fail("contract" if kind == "plugin" else stage, problem)
                    return
    except (Exception, SystemExit) as error:
        plugin.fail(stage, f"{type(error).__name__}: {one_line(error)}")


def _hook_problem(module: ModuleType | Any, manager: pluggy.PluginManager, namespace: str) -> str | None:
    """A misspelt or undecorated hook, or a plugin without any, in words."""
    manager.register(module, name=namespace)
    own = getattr(module, "__name__", None)
    implemented = 0
    for name in dir(module):
        value = getattr(module, name, None)
        if not name.startswith("zoo_") or isinstance(value, type) or not callable(value):
            continue
        if getattr(value, "__module__", own) != own and not hasattr(value, "zoo_impl"):
            continue
        if name not in hooks.HOOKS:
            return f"unknown hook {name!r}; {did_you_mean(name, hooks.HOOKS) or 'hooks: ' + ', '.join(hooks.HOOKS)}"
        if not hasattr(value, "zoo_impl"):
            return f"{name} is not decorated with @zoo_registry.hookimpl"
        implemented += 1
    return None if implemented else f"it implements none of {', '.join(hooks.HOOKS)}"


def _take(plugin: Plugin, kind: str, result: Any) -> str | None:
    """Check a hook's result and keep it; returns what is wrong with it."""
    if kind == "plugin":
        if not isinstance(result, PluginInfo):
            return f"returned {type(result).__name__}, not a PluginInfo"
        if result.contract > CONTRACT_VERSION:
            return (
                f"built for contract {result.contract}, this zoo speaks {CONTRACT_VERSION}; "
                "pip install -U transfer-zoo zoo-registry"
            )
        plugin.info = result
        return None
    specs = list(result) if result is not None else []
    taken: set[str] = set()
    for spec in specs:
        if not isinstance(spec, SPEC_TYPES[kind]):
            return f"returned {spec!r:.60}, not a {SPEC_TYPES[kind].__name__}"
        for name in (spec.name, *spec.aliases):
            if name in taken:
                return f"offers the {kind} {name!r} twice"
            taken.add(name)
    plugin.specs[kind] = specs
    return None
