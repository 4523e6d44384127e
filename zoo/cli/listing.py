"""``zoo list``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click
from zoo_registry import (
    BackboneSpec,
    Entry,
    FormatSpec,
    HeadSpec,
    HubError,
    RecipeSpec,
    StrategySpec,
    TrackerSpec,
    UsageError,
    Weights,
)
from zoo_registry.errors import did_you_mean

from zoo.cli.output import emit, hub_option, json_option, one_line, open_registry, short_number, table
from zoo.patterns import matches

WHAT = ("backbones", "heads", "strategies", "trackers", "formats", "plugins", "models")
KIND = {
    "backbones": ("backbone",),
    "heads": ("head",),
    "strategies": ("strategy", "recipe"),
    "trackers": ("tracker",),
    "formats": ("format",),
}
LONG = 50
"""Rows from which on a person is told how to see fewer."""
SORTS = ("name", "parameters", "accuracy", "speed", "recommended")


@click.command("list")
@click.argument("what", required=False, default="backbones", metavar=f"[{'|'.join(WHAT)}]")
@click.argument("pattern", required=False)
@click.option("--family", help="Backbones of one family, such as resnet.")
@click.option("--capability", multiple=True, help="Backbones with a capability, such as blocks (repeatable).")
@click.option(
    "--license",
    "licence",
    help="Backbones whose weights have this licence, or one of a kind: permissive, copyleft, non-commercial, "
    "own-terms, unknown.",
)
@click.option(
    "--weights", type=click.Choice(["any", "safe", "installed"]), default="any", help="Where weights must be."
)
@click.option("--max-parameters", type=float, metavar="MILLIONS", help="Backbones of at most this size.")
@click.option("--task", help="Heads for a task, such as multilabel.")
@click.option("--role", help="Strategies of a role, such as tuning; 'recipe' finds the named recipes.")
@click.option(
    "--sort", type=click.Choice(SORTS), default=None, help="Order of the rows; best first for accuracy and speed."
)
@click.option("--limit", type=click.IntRange(min=1), help="Print at most so many rows.")
@click.option("--local", is_flag=True, help="Models on this machine: runs and bundles here, and what was pulled.")
@hub_option
@json_option
def list_command(
    what: str, pattern: str | None, as_json: bool, hub: str | None, limit: int | None, local: bool, **filters: Any
) -> None:
    """List what is installed: backbones, heads, strategies, trackers, formats or plugins; or the models on a hub.

    Models are the runs and bundles in this folder and in runs/, then those on the hub (its 200 last changed ones with
    the tag "zoo").

    PATTERN is a part of the name, or a glob such as "resnet*".

    \b
    Example:
      zoo list backbones "mobilenet*" --weights safe --sort accuracy --limit 10
      zoo list strategies
      zoo list models --hub hub/
      zoo list models --local
    """
    if what not in WHAT:
        if pattern is not None:
            raise UsageError(f"unknown kind {what!r}", hint=did_you_mean(what, WHAT) or f"kinds: {', '.join(WHAT)}")
        close = did_you_mean(what, WHAT)
        if close and "*" not in what:
            raise UsageError(f"unknown kind {what!r}", hint=close)
        what, pattern = "backbones", what  # `zoo list "resnet*"` means backbones
    if what == "models":
        _list_models(pattern, hub, limit, local, as_json)
    elif what == "plugins":
        from zoo.cli.plugin import list_plugins

        list_plugins(as_json=as_json, pattern=pattern)
    else:
        _list_specs(what, pattern, limit, as_json, filters)


def spec_row(entry: Entry[Any]) -> dict[str, Any]:
    """The public JSON row of a spec."""
    spec = entry.spec
    row: dict[str, Any] = {
        "name": entry.name,
        "kind": entry.kind,
        "summary": spec.summary,
        "deprecated": spec.deprecated,
    }
    if isinstance(spec, BackboneSpec):
        weights = spec.weights
        row |= {
            "family": spec.family,
            "parameters": spec.parameters,
            "features": dict(spec.features),
            "input": spec.input.kind,
            "size": list(getattr(spec.input, "size", ())) or None,
            "weights": weights.where if weights else "none",
            "license": weights.license if weights else None,
            "capabilities": sorted(spec.capabilities),
            "recommended": spec.recommended,
            "facts": {fact.name: fact.value for fact in spec.facts},
        }
    elif isinstance(spec, HeadSpec):
        row |= {"tasks": list(spec.tasks), "features": list(spec.features), "gradient": spec.gradient}
    elif isinstance(spec, StrategySpec):
        row |= {"role": spec.role, "touches": sorted(spec.touches), "merges": spec.merges}
    elif isinstance(spec, RecipeSpec):
        row |= {"role": "recipe", "recipe": expression(spec), "head": spec.head}
    return row


def expression(spec: RecipeSpec) -> str:
    """A named recipe as the strategy expression that it stands for, short names."""
    return ",".join(
        "+".join(name.rpartition("/")[2] for name in phase.strategies) + (f":{phase.epochs}" if phase.epochs else "")
        for phase in spec.phases
    )


def _list_specs(what: str, pattern: str | None, limit: int | None, as_json: bool, filters: dict[str, Any]) -> None:
    registry = open_registry()
    entries = [
        e
        for kind in KIND[what]
        for e in registry.entries(kind)
        if matches(e.name, pattern) and _passes(e.spec, filters)
    ]
    entries = _sorted(entries, filters["sort"])
    shown = entries[:limit] if limit else entries

    def human() -> None:
        if not shown:
            click.echo(f"no {what} match" + (f" {pattern!r}" if pattern else ""), err=True)
            return
        header, rows = _table_rows(what, shown)
        table(rows, header)
        if len(shown) < len(entries):
            click.echo(f"{len(entries) - len(shown)} more; raise --limit to see them", err=True)
        elif len(shown) > LONG and sys.stdout.isatty():
            click.echo(f"{len(shown)} {what}; narrow them: zoo list {what} --help has filters", err=True)

    emit([spec_row(e) for e in shown] if as_json else None, as_json, human)


def _passes(spec: Any, filters: dict[str, Any]) -> bool:
    if isinstance(spec, BackboneSpec):
        return _backbone_passes(spec, filters)
    if isinstance(spec, HeadSpec):
        return not filters["task"] or filters["task"] in spec.tasks
    if isinstance(spec, TrackerSpec | FormatSpec):
        return True
    return not filters["role"] or filters["role"] == getattr(spec, "role", "recipe")


def _licensed(weights: Weights | None, wanted: str) -> bool:
    """Whether the weights have this licence, or one of this kind."""
    from zoo.bundle.licences import licence_id, licence_kind

    name = weights.license if weights else None
    return wanted.lower() in (licence_id(name), licence_kind(name).replace(" ", "-"))


def _backbone_passes(spec: BackboneSpec, filters: dict[str, Any]) -> bool:
    weights = spec.weights
    where = weights.where if weights else "none"
    if filters["family"] and spec.family != filters["family"]:
        return False
    if not set(filters["capability"]) <= spec.capabilities:
        return False
    if filters["licence"] and not _licensed(weights, filters["licence"]):
        return False
    if filters["weights"] == "safe" and where == "none":
        return False
    if filters["weights"] == "installed" and where != "package":
        return False
    most = filters["max_parameters"]
    return most is None or (spec.parameters is not None and spec.parameters <= most * 1e6)


def _sorted(entries: list[Any], order: str | None) -> list[Any]:
    if order is None:
        return entries
    if order == "name":
        return sorted(entries, key=lambda e: e.name)
    if order == "parameters":
        return sorted(entries, key=lambda e: getattr(e.spec, "parameters", None) or float("inf"))
    if order == "recommended":
        return sorted(entries, key=lambda e: -getattr(e.spec, "recommended", 0))
    fact = {"accuracy": "imagenet_top1", "speed": "cpu_images_per_second"}[order]
    return sorted(
        entries, key=lambda e: -(e.spec.fact(fact) or float("-inf")) if isinstance(e.spec, BackboneSpec) else 0
    )


def _table_rows(what: str, entries: list[Any]) -> tuple[list[str], list[list[str]]]:
    if what == "backbones":
        header = ["name", "parameters", "width", "size", "top-1", "weights", "licence"]
        return header, [_backbone_cells(e.name, e.spec) for e in entries]
    if what == "heads":
        return ["name", "tasks", "summary"], [[e.name, ",".join(e.spec.tasks), e.spec.summary] for e in entries]
    if what in ("trackers", "formats"):
        return ["name", "summary"], [[e.name, e.spec.summary] for e in entries]
    return ["name", "role", "summary"], [_strategy_cells(e.name, e.spec) for e in entries]


def _strategy_cells(name: str, spec: StrategySpec | RecipeSpec) -> list[str]:
    if isinstance(spec, RecipeSpec):
        return [name, "recipe", f"{expression(spec)}: {spec.summary}"]
    return [name, spec.role, spec.summary]


def _backbone_cells(name: str, spec: BackboneSpec) -> list[str]:
    weights = spec.weights
    width = next(iter(spec.features.values()))
    size = getattr(spec.input, "size", None)
    top1 = spec.fact("imagenet_top1")
    return [
        name,
        short_number(spec.parameters),
        str(width),
        str(size[0]) if size else spec.input.kind,
        f"{top1:.1f}" if top1 is not None else "",
        weights.where if weights else "none",
        (weights.license if weights else None) or ("unknown" if weights else ""),
    ]


def model_title(metadata: Mapping[str, Any]) -> str:
    """The title of a model in its card's ``model-index``, empty where there is none."""
    index = metadata.get("model-index")
    first = index[0] if isinstance(index, list) and index else {}
    name = first.get("name") if isinstance(first, dict) else None
    return one_line(str(name or metadata.get("model_name") or ""))


def _list_models(pattern: str | None, hub: str | None, limit: int | None, local: bool, as_json: bool) -> None:
    """Those here first, then those on the hub; where it does not answer, these alone and the exit code says so."""
    from zoo.cli.notices import show_warnings
    from zoo.local_models import local_models

    show_warnings()
    rows = [
        _model_row(str(m.path), m.summary, "here", modified=m.modified, url=str(m.path.absolute()))
        for m in local_models(pattern=pattern)
    ]
    refusal: HubError | None = None
    try:
        rows += _hub_rows(pattern, hub, local)
    except HubError as error:
        if not rows:
            raise
        refusal = error
    rows = rows[:limit]
    emit(rows, as_json, lambda: _print_models(rows))
    if refusal is not None:  # not raised: standard output has its one JSON document already
        click.echo(f"error: {one_line(refusal.message)}; models of this folder alone", err=True)
        click.echo("hint: zoo list models --local lists what is on this machine", err=True)
        raise click.exceptions.Exit(refusal.exit_code)


def _hub_rows(pattern: str | None, hub: str | None, local: bool) -> list[dict[str, Any]]:
    from zoo.hub import open_hub
    from zoo.local_models import cached_models

    source = open_hub(hub, offline=local)
    cache = getattr(source, "cache", None)
    found = cached_models(cache, pattern) if local and cache is not None else source.models(pattern)
    where = "cache" if local and cache is not None else "hub"
    facts = ("revision", "private", "modified", "url")
    return [_model_row(i.name, model_title(i.metadata), where, **{k: getattr(i, k) for k in facts}) for i in found]


def _model_row(name: str, summary: str, where: str, **facts: Any) -> dict[str, Any]:
    """The public JSON row of a model; ``where``: ``here`` (a run or bundle), ``hub`` or ``cache``."""
    row = {"name": name, "kind": "model", "summary": summary, "revision": None, "private": None}
    return {**row, **facts, "where": where}


def _print_models(rows: list[dict[str, Any]]) -> None:
    if not rows:
        click.echo("no models of the zoo there", err=True)
        return
    cells = [
        [
            one_line(str(r["name"])),
            str(r["revision"] or "")[:12],
            str(r["modified"] or "")[:19].replace("T", " "),
            r["where"],
            one_line(str(r["summary"])),
        ]
        for r in rows
    ]
    table(cells, ["name", "revision", "modified", "where", "summary"])
