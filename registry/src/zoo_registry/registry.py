"""The registry: everything that the installed plugins offer, by full or short name.

Full names are ``namespace/name`` and are what is stored everywhere. A short name works while it is unique within its
kind. Nothing here imports torch; a factory is imported when something is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, cast, overload

from zoo_registry.discovery import Plugin, Problem, discover
from zoo_registry.errors import AmbiguousNameError, PluginError, UnknownNameError, did_you_mean
from zoo_registry.references import load_reference
from zoo_registry.specs import (
    KINDS,
    BackboneSpec,
    FormatSpec,
    HeadSpec,
    NamedSpec,
    RecipeSpec,
    Spec,
    StrategySpec,
    TrackerSpec,
)

SpecT = TypeVar("SpecT", bound=NamedSpec, covariant=True)


@dataclass(frozen=True)
class Entry(Generic[SpecT]):
    """A spec and where it comes from."""

    kind: str
    namespace: str
    spec: SpecT
    plugin: Plugin

    @property
    def name(self) -> str:
        """The full name, ``namespace/name``."""
        return f"{self.namespace}/{self.spec.name}"

    def factory(self) -> object:
        """Import the spec's factory.

        Raises:
            PluginError: it cannot be imported; carries the original reason.
        """
        if not isinstance(self.spec, Spec):
            raise TypeError(f"{self.kind} {self.name} is data, nothing is built from it")
        return load_reference(self.spec.factory, owner=self.name)


class Registry:
    """What the installed plugins offer.

    Args:
        plugins: as :func:`zoo_registry.discover` returns them (called where not given).
    """

    def __init__(self, plugins: Iterable[Plugin] | None = None) -> None:
        self.plugins: tuple[Plugin, ...] = tuple(discover() if plugins is None else plugins)
        self._full: dict[str, dict[str, Entry[NamedSpec]]] = {kind: {} for kind in KINDS}
        self._short: dict[str, dict[str, list[Entry[NamedSpec]]]] = {kind: {} for kind in KINDS}
        self._entries: dict[str, list[Entry[NamedSpec]]] = {kind: [] for kind in KINDS}
        for plugin in self.plugins:
            for kind in KINDS:
                for spec in plugin.specs.get(kind, ()):
                    self._add(Entry(kind, plugin.namespace, spec, plugin))

    def _add(self, entry: Entry[NamedSpec]) -> None:
        self._entries[entry.kind].append(entry)
        for local in (entry.spec.name, *entry.spec.aliases):
            self._full[entry.kind][f"{entry.namespace}/{local}"] = entry
            self._short[entry.kind].setdefault(local, []).append(entry)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why plugins are off, one row each."""
        return tuple(plugin.problem for plugin in self.plugins if plugin.problem)

    @overload
    def entries(self, kind: Literal["backbone"]) -> Sequence[Entry[BackboneSpec]]: ...
    @overload
    def entries(self, kind: Literal["head"]) -> Sequence[Entry[HeadSpec]]: ...
    @overload
    def entries(self, kind: Literal["strategy"]) -> Sequence[Entry[StrategySpec]]: ...
    @overload
    def entries(self, kind: Literal["recipe"]) -> Sequence[Entry[RecipeSpec]]: ...
    @overload
    def entries(self, kind: Literal["tracker"]) -> Sequence[Entry[TrackerSpec]]: ...
    @overload
    def entries(self, kind: Literal["format"]) -> Sequence[Entry[FormatSpec]]: ...
    @overload
    def entries(self, kind: str) -> Sequence[Entry[NamedSpec]]: ...
    def entries(self, kind: str) -> Sequence[Entry[NamedSpec]]:
        """All entries of a kind, ordered by namespace, then as the plugin gave them."""
        return self._entries[kind]

    def names(self, kind: str) -> Iterator[str]:
        """All full names of a kind, aliases left out."""
        return (entry.name for entry in self._entries[kind])

    def find(self, kind: str, name: str) -> Entry[NamedSpec]:
        """The entry that a full or short name means.

        Raises:
            UnknownNameError: nothing answers to it; names the closest matches.
            AmbiguousNameError: a short name of several plugins; lists them.
            PluginError: the name's namespace belongs to a broken or disabled plugin.
        """
        if name in self._full[kind]:
            return self._full[kind][name]
        matches = self._short[kind].get(name, [])
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise AmbiguousNameError(
                f"{kind} {name!r} is offered by several plugins",
                hint="write the full name: " + " or ".join(entry.name for entry in matches),
            )
        self._refuse_switched_off(kind, name)
        raise UnknownNameError(f"unknown {kind} {name!r}", hint=self._suggest(kind, name))

    def backbone(self, name: str) -> Entry[BackboneSpec]:
        """The backbone of that name, see :meth:`find`."""
        return cast("Entry[BackboneSpec]", self.find("backbone", name))

    def head(self, name: str) -> Entry[HeadSpec]:
        """The head of that name, see :meth:`find`."""
        return cast("Entry[HeadSpec]", self.find("head", name))

    def strategy(self, name: str) -> Entry[StrategySpec]:
        """The strategy of that name, see :meth:`find`."""
        return cast("Entry[StrategySpec]", self.find("strategy", name))

    def recipe(self, name: str) -> Entry[RecipeSpec]:
        """The named recipe of that name, see :meth:`find`."""
        return cast("Entry[RecipeSpec]", self.find("recipe", name))

    def tracker(self, name: str) -> Entry[TrackerSpec]:
        """The tracker of that name, see :meth:`find`."""
        return cast("Entry[TrackerSpec]", self.find("tracker", name))

    def _refuse_switched_off(self, kind: str, name: str) -> None:
        namespace, slash, _ = name.partition("/")
        owners = [p for p in self.plugins if slash and p.namespace == namespace]
        if any(p.status == "ok" for p in owners):
            return
        for plugin in owners:
            if plugin.problem:
                raise PluginError(
                    f"{kind} {name!r}: {plugin.problem}", hint="zoo plugin list shows every plugin and why it is off"
                )
            raise PluginError(
                f"{kind} {name!r}: plugin {namespace!r} ({plugin.distribution}) is disabled by ZOO_PLUGINS",
                hint=f"add {namespace!r} to ZOO_PLUGINS, or unset it",
            )

    def _suggest(self, kind: str, name: str) -> str:
        local = name.rpartition("/")[2]
        other = next((k for k in KINDS if name in self._full[k] or name in self._short[k]), None)
        if other:
            return f"{name!r} is a {other}"
        pool = self._full[kind] if "/" in name else self._short[kind]
        close = did_you_mean(name, pool) or did_you_mean(local, self._short[kind])
        if close:
            return close
        namespace, slash, _ = name.partition("/")
        if slash and namespace not in {p.namespace for p in self.plugins}:
            return f"no plugin {namespace!r} is installed; zoo plugin list shows those that are"
        off = sorted({plugin.namespace for plugin in self.plugins if plugin.status != "ok"})
        aside = f" ({', '.join(off)} is off: zoo plugin list)" if off else ""
        plural = "strategies" if kind in ("strategy", "recipe") else f"{kind}s"
        return f"zoo list {plural} shows all{aside}"
