"""``Check``: one named claim about one spec; the generator of all of them, and the pytest face."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zoo_registry.conformance import spec_checks
from zoo_registry.errors import PluginError, UnknownNameError, UsageError, did_you_mean
from zoo_registry.references import one_line
from zoo_registry.registry import Entry, Registry
from zoo_registry.specs import KINDS, BackboneSpec, NamedSpec

CheckFunction = Callable[[Entry[Any]], None]

MODULES = {
    "backbone": "backbone_checks",
    "head": "head_checks",
    "strategy": "strategy_checks",
    "recipe": "recipe_checks",
    "tracker": "tracker_checks",
    "format": "format_checks",
}
"""Kind -> the module with its checks; these import torch, so they are imported when checks are asked for."""


@dataclass(frozen=True)
class Check:
    """A claim about a spec; calling it raises where the claim is false.

    Attributes:
        name: a sentence, ``features_have_declared_width``.
        spec: full name of the spec.
        kind: ``backbone``, ``head``, ``strategy``, ``recipe``, ``tracker`` or ``format``.
        run: raises where the claim is false.
        expected_failure: why it is known not to pass, or None.
    """

    name: str
    spec: str
    kind: str
    run: Callable[[], None]
    expected_failure: str | None = None

    def __call__(self) -> None:
        """Run the check."""
        self.run()

    def __str__(self) -> str:
        return f"{self.kind}-{self.spec}-{self.name}"


@dataclass(frozen=True)
class Outcome:
    """What became of a check.

    Attributes:
        check: which.
        status: ``passed``, ``failed``, ``known`` (failed as expected) or ``fixed`` (passed though it was expected to
            fail: the expectation is to be removed; counts as a failure).
        message: the reason on one line; empty where it passed.
        seconds: how long it took.
    """

    check: Check
    status: str
    message: str
    seconds: float

    @property
    def good(self) -> bool:
        """Whether the plugin may be shipped like this."""
        return self.status in ("passed", "known")


def run_check(check: Check) -> Outcome:
    """Run a check and say what became of it; only an interrupt from the keyboard gets through."""
    start = time.perf_counter()
    try:
        check()
    except KeyboardInterrupt:
        raise
    except AssertionError as error:
        message = one_line(error, 400) or "AssertionError"
    except BaseException as error:
        message = f"{type(error).__name__}: {one_line(error, 400)}"
    else:
        message = ""
    seconds = time.perf_counter() - start
    if check.expected_failure is None:
        return Outcome(check, "failed" if message else "passed", message, seconds)
    if message:
        return Outcome(check, "known", f"{check.expected_failure} ({message})", seconds)
    return Outcome(check, "fixed", f"passes, but is listed as a known failure: {check.expected_failure}", seconds)


def iterate_checks(
    registry: Registry,
    name: str,
    kind: str | None = None,
    *,
    limit: int | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> Iterator[Check]:
    """All checks that apply to what ``name`` means.

    Args:
        registry: where to look.
        name: a namespace (all that the plugin offers), or the full or short name of a spec.
        kind: only this kind.
        limit: of a namespace, only so many specs of each kind: the first heads and strategies, the smallest backbones.
        expected_failures: ``check`` or ``full name:check`` -> why it cannot pass; added to the specs' own
            ``known_failures``.

    Raises:
        UnknownNameError: nothing answers to ``name``.
        PluginError: the plugin is broken or disabled; carries the reason.
        UsageError: an expected failure without a reason, or of a check that does not exist.
    """
    entries = _select(registry, name, kind, limit)
    expected = dict(expected_failures or {})
    used: set[str] = set()
    checks = [check for entry in entries for check in _checks_of(entry, expected, used)]
    unused = [key for key in expected if key not in used]
    if unused:
        close = did_you_mean(unused[0].rpartition(":")[2], {check.name for check in checks})
        raise UsageError(f"expected failure of {unused[0]!r}, which is no check of {name!r}", hint=close)
    yield from checks


def parametrize_with_checks(name: str, kind: str | None = None, **arguments: Any) -> Any:
    """A pytest decorator: the test runs once per check, which it gets as ``check`` and calls.

    Args:
        name, kind: as in :func:`iterate_checks`; plugins are discovered when the test module is imported.
        **arguments: ``limit`` and ``expected_failures`` of :func:`iterate_checks`; a check that is expected to fail
            must fail (``xfail`` with ``strict``).
    """
    import pytest

    parameters = [
        pytest.param(
            check,
            id=f"{check.spec}-{check.name}",
            marks=[pytest.mark.xfail(reason=check.expected_failure, strict=True)] if check.expected_failure else [],
        )
        for check in iterate_checks(Registry(), name, kind, **arguments)
    ]
    return pytest.mark.parametrize("check", parameters)


def _select(registry: Registry, name: str, kind: str | None, limit: int | None) -> list[Entry[NamedSpec]]:
    if kind is not None and kind not in KINDS:
        raise UsageError(f"unknown kind {kind!r}", hint="one of " + ", ".join(KINDS))
    kinds = KINDS if kind is None else (kind,)
    owners = [plugin for plugin in registry.plugins if plugin.namespace == name]
    if any(plugin.status == "ok" for plugin in owners):
        groups = [[e for e in registry.entries(k) if e.namespace == name] for k in kinds]
        return [entry for group in groups for entry in _limited(group, limit)]
    for plugin in owners:
        raise PluginError(str(plugin.problem or f"plugin {name!r} is disabled by ZOO_PLUGINS"))
    found: list[Entry[NamedSpec]] = []
    unknown: UnknownNameError | None = None
    for each in kinds:
        try:
            found.append(registry.find(each, name))
        except UnknownNameError as error:
            unknown = unknown or error
    if not found:
        close = did_you_mean(name, {plugin.namespace for plugin in registry.plugins})
        hint = close or (unknown.hint if unknown is not None else None)
        raise UnknownNameError(f"no plugin and no {' or '.join(kinds)} is named {name!r}", hint)
    return found


def _limited(entries: list[Entry[NamedSpec]], limit: int | None) -> list[Entry[NamedSpec]]:
    if limit is None or len(entries) <= limit:
        return entries

    def size(entry: Entry[NamedSpec]) -> float:
        return (entry.spec.parameters or float("inf")) if isinstance(entry.spec, BackboneSpec) else 0.0

    return sorted(entries, key=size)[:limit]


def _run(function: CheckFunction, entry: Entry[Any]) -> None:
    """Run a check; on one thread where tensors are tiny, as more would only stand in each other's way."""
    if entry.kind in ("backbone", "recipe", "tracker"):
        function(entry)
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        function(entry)
    finally:
        torch.set_num_threads(threads)


def _checks_of(entry: Entry[NamedSpec], expected: Mapping[str, str], used: set[str]) -> Iterator[Check]:
    module = importlib.import_module(f"zoo_registry.conformance.{MODULES[entry.kind]}")
    functions: list[CheckFunction] = [*spec_checks.applicable(entry), *module.applicable(entry)]
    known: Mapping[str, str] = getattr(entry.spec, "known_failures", {})
    strangers = sorted(set(known) - {function.__name__ for function in functions})
    if strangers:
        raise UsageError(f"{entry.name}: known failure of {strangers[0]!r}, which is no check of it")
    for function in functions:
        name = function.__name__
        keys = [key for key in (name, f"{entry.name}:{name}") if key in expected]
        used.update(keys)
        reasons = [*(expected[key] for key in keys), *(r for n, r in known.items() if n == name)]
        if any(not reason.strip() for reason in reasons):
            raise UsageError(f"{entry.name}: the expected failure of {name!r} needs a reason")
        yield Check(
            name, entry.name, entry.kind, functools.partial(_run, function, entry), reasons[0] if reasons else None
        )
