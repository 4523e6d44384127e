"""``zoo plugin list|check|new``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from zoo_registry import PluginError
from zoo_registry.specs import KINDS

from zoo.cli.output import emit, json_option, open_registry, say, table
from zoo.plugins.rows import PLURALS, plugin_rows


@click.group("plugin")
def plugin() -> None:
    """See, check and write plugins.

    \b
    Example:
      zoo plugin list
      zoo plugin check starter
      zoo plugin new bird-songs
    """


@plugin.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the installed plugins, what each offers and why one is off.

    ZOO_PLUGINS=timm,basics allows these alone; ZOO_PLUGINS=timm=zoo-timm decides who owns a namespace that two claim;
    ZOO_STRICT=1 makes a broken plugin an error.

    \b
    Example:
      zoo plugin list
      ZOO_PLUGINS=timm,basics zoo plugin list --json
    """
    list_plugins(as_json=as_json)


def list_plugins(*, as_json: bool, pattern: str | None = None) -> None:
    """Print the installed plugins (those whose namespace or distribution has ``pattern`` in it)."""
    rows = plugin_rows(open_registry())
    rows = [row for row in rows if pattern is None or pattern in row["namespace"] or pattern in row["distribution"]]

    def human() -> None:
        if not rows:
            say("no plugins are installed" if pattern is None else f"no plugin matches {pattern!r}")
            return
        cells = [[str(row[name]) for name in ("namespace", "distribution", "version", "status")] for row in rows]
        table(
            [[*c, _offer(row)] for c, row in zip(cells, rows, strict=True)],
            ["name", "from", "version", "status", "what"],
        )

    emit(rows, as_json, human)


def _offer(row: dict[str, Any]) -> str:
    if row["status"] == "broken":
        return f"{row['stage']}: {row['reason']}"
    if row["status"] == "disabled":
        return "switched off by ZOO_PLUGINS"
    counts = [(row[plural], plural if row[plural] != 1 else kind) for kind, plural in PLURALS.items()]
    return ", ".join(f"{count:,} {word}" for count, word in counts if count) or "nothing"


@plugin.command("check")
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), help="Check specs of this kind alone.")
@click.option("--limit", type=click.IntRange(min=1), default=5, show_default=True, metavar="N", help="Of a namespace.")
@click.option("--all", "everything", is_flag=True, help="Check every spec, however many there are.")
@json_option
def check_command(name: str, kind: str | None, limit: int, everything: bool, as_json: bool) -> None:
    """Run the conformance checks of NAME: a plugin's namespace, or a backbone, head, strategy or tracker.

    Of a namespace at most N specs of each kind are checked (--limit), the smallest backbones first. The exit code is 1
    where a check fails.

    \b
    Example:
      zoo plugin check basics --kind head
      zoo plugin check starter/tiny-cnn --json
    """
    from zoo.plugins.checking import check_plugin, outcome_row

    rows, bad = [], 0
    for outcome in check_plugin(open_registry(), name, kind, limit=None if everything else limit):
        row = outcome_row(outcome)
        rows.append(row)
        bad += not outcome.good
        reason = f": {row['message']}" if row["message"] else ""
        say(f"{row['status']:<7} {row['spec']}  {row['check']}{reason}", as_json=as_json)
    if not rows:
        raise PluginError(f"plugin {name!r} offers nothing to check", hint="zoo plugin list shows what each offers")
    specs = len({(row["kind"], row["spec"]) for row in rows})
    say(f"{len(rows) - bad} of {len(rows)} checks of {specs} specs are as they should be", as_json=as_json)
    emit(rows, as_json, lambda: None)
    if bad:
        click.get_current_context().exit(1)


@plugin.command("new")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to make; ./zoo-NAME by default.", metavar="DIR")
@json_option
def new_command(name: str, out: Path | None, as_json: bool) -> None:
    """Write a working, tested plugin package: a backbone, a head and a strategy to start from.

    \b
    Example:
      zoo plugin new bird-songs
      zoo plugin new bird-songs --out ~/code/zoo-bird-songs
    """
    from zoo.plugins.new import create_plugin

    made = create_plugin(name, out)
    say(f"wrote {made.folder} ({len(made.files)} files); next:", as_json=as_json)
    for step in made.next_steps:
        say(f"  {step}", as_json=as_json)
    value = {
        "namespace": made.namespace,
        "distribution": made.distribution,
        "package": made.package,
        "path": str(made.folder),
        "files": list(made.files),
    }
    emit(value, as_json, lambda: None)
