"""Tiny plugin distributions on disk: a module and a ``.dist-info`` folder, found as installed ones are."""

from __future__ import annotations

import importlib.metadata
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from zoo_registry import discovery
from zoo_registry.discovery import Plugin, discover

HEAD = """
from zoo_registry import HeadSpec, hookimpl

@hookimpl
def zoo_heads():
    return [HeadSpec(name="{name}", summary="a head of a fake plugin", factory="fake_factories:build")]
"""

BROKEN: dict[str, tuple[str, str, str]] = {
    # namespace: (source of the module, stage of the problem, part of the reason)
    "raises": ("raise RuntimeError('the moon is wrong')", "import", "RuntimeError: the moon is wrong"),
    "exits": ("import sys; sys.exit('bye')", "import", "SystemExit: bye"),
    "odd-exit": ("class Odd(BaseException): pass\nraise Odd('deep')", "import", "Odd: deep"),
    "unparsable": ("def zoo_heads(:\n", "import", "SyntaxError"),
    "missing-import": ("import surely_not_installed_here", "import", "No module named 'surely_not_installed_here'"),
    "misspelt": (
        "from zoo_registry import hookimpl\n@hookimpl\ndef zoo_haeds():\n    return []",
        "hooks",
        "unknown hook 'zoo_haeds'; did you mean 'zoo_heads'",
    ),
    "misspelt-prefix": (
        "from zoo_registry import hookimpl\n@hookimpl\ndef zo_heads():\n    return []",
        "hooks",
        "unknown hook 'zo_heads'; did you mean 'zoo_heads'",
    ),
    "undecorated": (
        "def zoo_heads():\n    return []",
        "hooks",
        "zoo_heads is not decorated with @zoo_registry.hookimpl",
    ),
    "hookless": ("VALUE = 3", "hooks", "it implements none of zoo_plugin, zoo_backbones"),
    "wrapper": (
        "from zoo_registry import hookimpl\n@hookimpl(wrapper=True)\ndef zoo_heads():\n    return (yield)",
        "hooks",
        "zoo_heads is a hook wrapper",
    ),
    "wants-arguments": (
        "from zoo_registry import hookimpl\n@hookimpl\ndef zoo_heads(config):\n    return []",
        "hooks",
        "config",
    ),
    "raising-hook": (
        "from zoo_registry import hookimpl\n@hookimpl\ndef zoo_heads():\n    raise KeyError('a\\nb')",
        "zoo_heads",
        "KeyError",
    ),
    "exiting-hook": (
        "from zoo_registry import hookimpl\n@hookimpl\ndef zoo_heads():\n    raise SystemExit(4)",
        "zoo_heads",
        "SystemExit: 4",
    ),
    "late-failure": (
        HEAD.format(name="kept-back") + "@hookimpl\ndef zoo_strategies():\n    raise OSError('half way')",
        "zoo_strategies",
        "OSError: half way",
    ),
    "generator-failure": (
        "from zoo_registry import hookimpl\n@hookimpl\ndef zoo_heads():\n    yield 3",
        "zoo_heads",
        "returned 3, not a HeadSpec",
    ),
    "wrong-type": (
        "from zoo_registry import hookimpl\n@hookimpl\ndef zoo_heads():\n    return 7",
        "zoo_heads",
        "TypeError: 'int' object is not iterable",
    ),
    "wrong-kind": (
        "from zoo_registry import StrategySpec, hookimpl\n@hookimpl\ndef zoo_heads():\n"
        "    return [StrategySpec(name='s', summary='not a head', factory='a:b')]",
        "zoo_heads",
        "not a HeadSpec",
    ),
    "wrong-info": (
        "from zoo_registry import hookimpl\n@hookimpl\ndef zoo_plugin():\n    return 'hello'",
        "contract",
        "zoo_plugin returned str, not a PluginInfo",
    ),
    "twice": (
        "from zoo_registry import HeadSpec, hookimpl\n@hookimpl\ndef zoo_heads():\n"
        "    one = HeadSpec(name='one', summary='first', factory='a:b')\n"
        "    return [one, HeadSpec(name='two', aliases=('one',), summary='second', factory='a:b')]",
        "zoo_heads",
        "offers the head 'one' twice",
    ),
    "bad-spec": (
        "from zoo_registry import HeadSpec, hookimpl\n@hookimpl\ndef zoo_heads():\n"
        "    return [HeadSpec(name='a b', summary='spaced', factory='a:b')]",
        "zoo_heads",
        "'a b' is no name",
    ),
    "newer": (
        "from zoo_registry import PluginInfo, hookimpl\n@hookimpl\ndef zoo_plugin():\n"
        "    return PluginInfo(summary='from the future', contract=99)\n"
        "@hookimpl\ndef zoo_telescopes(sky):\n    return []",
        "contract",
        "built for contract 99, this zoo speaks 1; pip install -U transfer-zoo zoo-registry",
    ),
    "older": (
        "from zoo_registry import PluginInfo, hookimpl\n@hookimpl\ndef zoo_plugin():\n"
        "    return PluginInfo(summary='from the past', contract=0)",
        "contract",
        "built for contract 0, this zoo speaks 1 to 1; pip install -U zoo-older",
    ),
    "Bad_Name": (HEAD.format(name="x"), "name", "a namespace is lower-case letters"),
}


def add_distribution(
    folder: Path,
    namespace: str,
    source: str,
    *,
    distribution: str | None = None,
    module: str | None = None,
    entry_points: str | None = None,
    version: str = "1.2",
) -> None:
    """Write a distribution into ``folder``; put that on ``sys.path`` and it is installed."""
    distribution = distribution or f"zoo-{namespace}"
    module = module or f"fake_{distribution.replace('-', '_')}"
    (folder / f"{module}.py").write_text(textwrap.dedent(source))
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    text = f"[zoo]\n{namespace} = {module}\n" if entry_points is None else entry_points
    (info / "entry_points.txt").write_text(text)


def add_all_broken(folder: Path) -> None:
    """Every row of :data:`BROKEN`, a distribution each, and two that claim the namespace ``contested``."""
    for namespace, (source, _, _) in BROKEN.items():
        add_distribution(folder, namespace, source)
    for owner in ("zoo-first", "zoo-second"):
        add_distribution(folder, "contested", HEAD.format(name=owner[4:]), distribution=owner)


class Installed:
    """A folder of fake distributions; only these are discovered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, namespace: str, source: str, **arguments: str) -> None:
        """See :func:`add_distribution`."""
        add_distribution(self.folder, namespace, source, **arguments)

    def discover(self) -> dict[str, Plugin]:
        """The plugins by distribution."""
        return {plugin.distribution: plugin for plugin in discover()}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """An environment in which only what a test adds is installed."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delenv("ZOO_PLUGINS", raising=False)
    monkeypatch.delenv("ZOO_STRICT", raising=False)
    finder: Callable[[], object] = lambda: importlib.metadata.distributions(path=[str(folder)])  # noqa: E731
    monkeypatch.setattr(discovery, "distributions", finder)
    yield Installed(folder)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]
