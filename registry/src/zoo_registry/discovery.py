"""Discovery of installed plugins: one at a time, so that a broken one is a row and not a traceback.

pluggy's own entry-point loading stops at the first failing import, skips a second claim to one name without a word, and
lets one raising hook abort the whole call. So the loop is ours; pluggy keeps the hooks and their validation.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from zoo_registry import hooks
from zoo_registry.errors import PluginError, did_you_mean
from zoo_registry.installed import distributions
from zoo_registry.references import one_line
from zoo_registry.specs import CONTRACT_VERSION, OLDEST_CONTRACT, SPEC_TYPES, NamedSpec, PluginInfo

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

GROUP = "zoo"
_NAMESPACE = re.compile(r"^[a-z][a-z0-9-]*\Z")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a plugin is off.

    Attributes:
        namespace: the entry point's name.
        distribution, version: who installed it.
        stage: ``metadata``, ``selection``, ``name``, ``conflict``, ``import``, ``contract``, ``hooks``, or the hook
            that failed.
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
    """An installed plugin: its origin, what it offers, and why it is off where it is.

    ``module`` is the entry point's value; ``status`` is ``ok``, ``broken`` or ``disabled`` (by ``ZOO_PLUGINS``).
    """

    namespace: str
    distribution: str
    version: str
    module: str = ""
    status: str = "ok"
    info: PluginInfo | None = None
    problem: Problem | None = None
    specs: dict[str, list[NamedSpec]] = field(default_factory=lambda: {kind: [] for kind in SPEC_TYPES})

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

    Whatever a plugin prints while it loads goes to stderr, so that ``--json`` stays clean.

    Args:
        points: the entry points to look at; those of the group ``zoo`` by default.
        selection: what is allowed; the environment's by default.

    Raises:
        ZooError: only where ``ZOO_STRICT=1`` is set and a plugin is broken.
    """
    collecting = gc.isenabled()
    gc.disable()  # thousands of specs are made and none is garbage; looking for it would take a tenth of the time
    try:
        plugins = _discover(points, selection)
    finally:
        if collecting:
            gc.enable()
    if os.environ.get("ZOO_STRICT") == "1":
        for plugin in plugins:
            if plugin.problem:
                raise PluginError(str(plugin.problem), hint="unset ZOO_STRICT to go on without it")
    return plugins


def _discover(points: Iterable[EntryPoint] | None, selection: Selection | None) -> list[Plugin]:
    chosen = selection if selection is not None else Selection.from_environment()
    found, plugins = _installed() if points is None else (list(points), [])
    by_namespace: dict[str, list[EntryPoint]] = {}
    for point in found:
        by_namespace.setdefault(point.name, []).append(point)
    with contextlib.redirect_stdout(sys.stderr):
        for name, claims in by_namespace.items():
            plugins += _load_namespace(name, claims, chosen)
    plugins += _missing(chosen, by_namespace)
    plugins.sort(key=lambda plugin: (plugin.namespace, plugin.distribution))
    return plugins


def _installed() -> tuple[list[EntryPoint], list[Plugin]]:
    """The entry points of our group, and a row for each distribution whose metadata cannot be read.

    One file that does not parse makes :func:`importlib.metadata.entry_points` raise for everybody, hence the loop.
    A distribution that stands on the path twice counts once, as the import system would have it.
    """
    points: dict[str, list[EntryPoint]] = {}
    broken: dict[str, Plugin] = {}
    for distribution in distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
            if f"[{GROUP}]" not in text:
                continue
            name = _normal(_origin(distribution)[0])
            points.setdefault(name, [p for p in distribution.entry_points if p.group == GROUP])
        except Exception as error:
            owner, version = _origin(distribution)
            plugin = Plugin(namespace=_normal(owner), distribution=owner, version=version)
            plugin.fail("metadata", f"entry_points.txt cannot be read: {type(error).__name__}: {one_line(error)}")
            broken.setdefault(plugin.namespace, plugin)
    return [point for group in points.values() for point in group], list(broken.values())


def _origin(distribution: Distribution | None) -> tuple[str, str]:
    """Name and version, ``unknown`` where the metadata does not say."""
    if distribution is None:
        return "unknown", "unknown"
    try:
        metadata = distribution.metadata
        return str(metadata["Name"] or "unknown"), str(metadata["Version"] or "unknown")
    except Exception:
        return "unknown", "unknown"


def _missing(selection: Selection, installed: Mapping[str, Sequence[EntryPoint]]) -> list[Plugin]:
    """A row for each namespace that ``ZOO_PLUGINS`` names and nobody claims."""
    rows = []
    for namespace in sorted((selection.allowed or frozenset()) | selection.owners.keys()):
        if namespace not in installed:
            plugin = Plugin(namespace=namespace, distribution=selection.owners.get(namespace, "unknown"), version="-")
            close = did_you_mean(namespace, installed) or "it is not installed"
            plugin.fail("selection", f"ZOO_PLUGINS names {namespace!r}, which no plugin claims; {close}")
            rows.append(plugin)
    return rows


def _load_namespace(namespace: str, points: Sequence[EntryPoint], selection: Selection) -> list[Plugin]:
    pairs = _distinct(points)
    plugins = [plugin for plugin, _ in pairs]
    if selection.allowed is not None and namespace not in selection.allowed:
        for plugin in plugins:
            plugin.status = "disabled"
        return plugins
    active = _owned(namespace, pairs, selection.owners.get(namespace))
    if len(active) > 1:
        names = " and ".join(plugin.distribution for plugin, _ in active)
        choice = " or ".join(f"ZOO_PLUGINS={namespace}={plugin.distribution}" for plugin, _ in active)
        for plugin, _ in active:
            plugin.fail("conflict", f"{names} both claim the namespace {namespace!r}; decide with {choice}")
        return plugins
    for plugin, point in active:
        _load(plugin, point)
    return plugins


def _owned(
    namespace: str, pairs: Sequence[tuple[Plugin, EntryPoint]], owner: str | None
) -> list[tuple[Plugin, EntryPoint]]:
    """The claims that are left once ``ZOO_PLUGINS`` has decided; the others are switched off."""
    if owner is None:
        return list(pairs)
    if all(_normal(plugin.distribution) != owner for plugin, _ in pairs):
        names = ", ".join(plugin.distribution for plugin, _ in pairs)
        for plugin, _ in pairs:
            plugin.fail("selection", f"ZOO_PLUGINS gives {namespace!r} to {owner!r}, but it is {names} that claims it")
        return []
    for plugin, _ in pairs:
        if _normal(plugin.distribution) != owner:
            plugin.status = "disabled"
    return [(plugin, point) for plugin, point in pairs if plugin.status == "ok"]


def _distinct(points: Sequence[EntryPoint]) -> list[tuple[Plugin, EntryPoint]]:
    """One row a distribution: an editable install may show the same entry point twice."""
    rows: dict[tuple[str, str], tuple[Plugin, EntryPoint]] = {}
    for point in points:
        name, version = _origin(point.dist)
        plugin = Plugin(namespace=point.name, distribution=name, version=version, module=point.value)
        rows.setdefault((_normal(name), point.value), (plugin, point))
    return [rows[key] for key in sorted(rows)]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _load(plugin: Plugin, point: EntryPoint) -> None:
    """Import one plugin and collect what its hooks return; any failure switches it off."""
    stage = "name"
    try:
        if not _NAMESPACE.match(plugin.namespace):
            raise _RefusedError("a namespace is lower-case letters, digits and '-', starting with a letter")
        stage = "import"
        module = point.load()
        stage = "contract"
        _greet(plugin, module)
        stage = "hooks"
        for hook, implementation in _implementations(module).items():
            stage = hook
            if hook != "zoo_plugin":
                kind = hooks.HOOKS[hook]
                plugin.specs[kind] = _checked(kind, implementation())
    except KeyboardInterrupt:
        raise
    except _RefusedError as refused:
        plugin.fail(stage, str(refused))
    except BaseException as error:  # SystemExit, and what compiled extensions raise beside Exception
        plugin.fail(stage, f"{type(error).__name__}: {one_line(error)}")


class _RefusedError(Exception):
    """What is wrong with a plugin, in words of ours."""


def _greet(plugin: Plugin, module: ModuleType | Any) -> None:
    """Ask ``zoo_plugin`` before all else: a plugin built for a newer contract may use hooks unknown here."""
    hook = getattr(module, "zoo_plugin", None)
    if not callable(hook) or not hasattr(hook, "zoo_impl"):
        return
    info = hook()
    if not isinstance(info, PluginInfo):
        raise _RefusedError(f"zoo_plugin returned {type(info).__name__}, not a PluginInfo")
    if info.contract > CONTRACT_VERSION:
        raise _RefusedError(
            f"built for contract {info.contract}, this zoo speaks {CONTRACT_VERSION}; "
            "pip install -U transfer-zoo zoo-registry"
        )
    if info.contract < OLDEST_CONTRACT:
        raise _RefusedError(
            f"built for contract {info.contract}, this zoo speaks {OLDEST_CONTRACT} to {CONTRACT_VERSION}; "
            f"pip install -U {plugin.distribution}"
        )
    plugin.info = info


def _implementations(module: ModuleType | Any) -> dict[str, Callable[[], Any]]:
    """The module's hook implementations, in the order of the hooks.

    Refuses a misspelt or undecorated hook and a plugin without any: pluggy alone would say nothing. An undecorated
    ``zoo_*`` callable that was imported from elsewhere is none of ours.
    """
    own = module.__name__ if isinstance(module, ModuleType) else type(module).__module__
    for name in dir(module):
        value = getattr(module, name, None)
        marker = getattr(value, "zoo_impl", None) if callable(value) and not isinstance(value, type) else None
        if marker is None and (not name.startswith("zoo_") or not callable(value) or isinstance(value, type)):
            continue
        if marker is None and getattr(value, "__module__", own) != own:
            continue
        hook = (marker or {}).get("specname") or name
        if hook not in hooks.HOOKS:
            close = did_you_mean(hook, hooks.HOOKS) or "hooks: " + ", ".join(hooks.HOOKS)
            raise _RefusedError(f"unknown hook {hook!r}; {close}")
        if marker is None:
            raise _RefusedError(f"{name} is not decorated with @zoo_registry.hookimpl")
        if marker.get("hookwrapper") or marker.get("wrapper"):
            raise _RefusedError(f"{name} is a hook wrapper; the zoo takes plain hooks only")
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    manager.register(module)  # checks the arguments
    found = {hook: getattr(manager.hook, hook).get_hookimpls() for hook in hooks.HOOKS}
    if not any(found.values()):
        raise _RefusedError(f"it implements none of {', '.join(hooks.HOOKS)}")
    return {hook: implementations[0].function for hook, implementations in found.items() if implementations}


def _checked(kind: str, result: Any) -> list[NamedSpec]:
    """A hook's result as a list of specs of that kind, without any name twice."""
    specs = list(result) if result is not None else []
    taken: set[str] = set()
    for spec in specs:
        if not isinstance(spec, SPEC_TYPES[kind]):
            raise _RefusedError(f"returned {spec!r:.60}, not a {SPEC_TYPES[kind].__name__}")
        for name in (spec.name, *spec.aliases):
            if name in taken:
                raise _RefusedError(f"offers the {kind} {name!r} twice")
            taken.add(name)
    return specs
