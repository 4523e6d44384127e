"""``zoo show``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from zoo_registry import (
    BackboneSpec,
    Entry,
    HeadSpec,
    ImageInput,
    Input,
    RecipePhase,
    RecipeSpec,
    Registry,
    StrategySpec,
    UnknownNameError,
    UsageError,
    ZooError,
)
from zoo_registry.options import describe_options
from zoo_registry.specs import KINDS

from zoo.cli.listing import expression, spec_row
from zoo.cli.output import (
    counted,
    emit,
    hub_option,
    json_option,
    offline_option,
    open_registry,
    say,
    short_number,
    table,
)


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[KIND] NAME")
@hub_option
@offline_option
@json_option
def show(words: tuple[str, ...], hub: str | None, offline: bool, as_json: bool) -> None:
    """Show what is known of NAME: a backbone, head, strategy, recipe or tracker, a run or bundle folder, or a model on
    a hub.

    Of a model the lineage is shown: what it began with, and so on down to weights that were not trained here.

    The registry is asked first, then the disk, then the hub; hf:OWNER/NAME asks the hub alone. KIND (backbone, head,
    strategy, recipe or tracker) decides where a name means more than one thing.

    \b
    Example:
      zoo show resnet18
      zoo show strategy linear
      zoo show me/flowers --hub hub/
    """
    if len(words) > 2 or (len(words) == 2 and words[0] not in KINDS):
        raise UsageError(f"show takes [KIND] NAME, got {' '.join(words)!r}", hint=f"kinds: {', '.join(KINDS)}")
    name, kinds = words[-1], ((words[0],) if len(words) == 2 else KINDS)
    if not name.startswith("hf:"):
        registry = open_registry()
        entries, refusal = _find(registry, name, kinds)
        if entries:
            emit(
                [entry_json(e) for e in entries] if len(entries) > 1 else entry_json(entries[0]),
                as_json,
                lambda: _print_all(entries),
            )
            return
        if Path(name).exists():
            from zoo.cli.model_page import show_folder

            show_folder(Path(name), as_json, registry, hub=hub, offline=offline)
            return
        if len(words) == 2 or "/" not in name or refusal.exit_code != 2 or _is_namespace(registry, name):
            raise refusal
    from zoo.cli.model_page import show_remote

    show_remote(name, as_json, hub=hub, offline=offline)


def _find(registry: Registry, name: str, kinds: tuple[str, ...]) -> tuple[list[Entry[Any]], ZooError]:
    found, errors = [], []
    for kind in kinds:
        try:
            found.append(registry.find(kind, name))
        except ZooError as error:
            errors.append(error)
    grave = [e for e in errors if not isinstance(e, UnknownNameError)]
    hints = [e for e in errors if e.hint and "did you mean" in e.hint]
    refusal = (grave or hints or errors or [ZooError("")])[0]
    if isinstance(refusal, UnknownNameError):
        words = " or ".join(kinds) if len(kinds) == 1 else "backbone, head, strategy, recipe, tracker or format"
        refusal = UnknownNameError(f"unknown {words} {name!r}", hint=refusal.hint)
    return found, refusal


def _is_namespace(registry: Registry, name: str) -> bool:
    return name.partition("/")[0] in {plugin.namespace for plugin in registry.plugins}


def entry_json(entry: Entry[Any]) -> dict[str, Any]:
    """Everything of a spec, as JSON."""
    spec = entry.spec
    row = {**spec_row(entry), "aliases": list(spec.aliases)}
    row["plugin"] = {"distribution": entry.plugin.distribution, "version": entry.plugin.version}
    paper = getattr(spec, "paper", None)
    if paper is not None:
        row["paper"] = {"title": paper.title, "year": paper.year, "link": paper.link}
    if isinstance(spec, RecipeSpec):
        return {**row, "phases": [_phase_json(phase) for phase in spec.phases]}
    row["factory"] = spec.factory
    row["options"] = [
        {"name": o.name, "type": o.type, "default": o.default, "allowed": o.allowed, "help": o.help}
        for o in describe_options(spec.options)
    ]
    if isinstance(spec, BackboneSpec):
        given, weights = spec.input, spec.weights
        row["input"] = {
            "kind": given.kind,
            **{k: list(v) if isinstance(v, tuple) else v for k, v in vars(given).items()},
        }
        row["facts"] = [{"name": f.name, "value": f.value, "source": f.source} for f in spec.facts]
        row["weights"] = {k: v for k, v in vars(weights).items() if v is not None} if weights else None
    if isinstance(spec, StrategySpec):
        row["defaults"] = {k: v for k, v in vars(spec.defaults).items() if v is not None}
        row["needs"] = sorted(spec.needs)
    return row


def _phase_json(phase: RecipePhase) -> dict[str, Any]:
    values = {k: v for k, v in vars(phase).items() if v is not None and k != "options"}
    options = {name: dict(given) for name, given in phase.options.items() if given}
    return {**values, "strategies": list(phase.strategies), **({"options": options} if options else {})}


def _print_all(entries: list[Entry[Any]]) -> None:
    for number, entry in enumerate(entries):
        if number:
            say()
        _print_entry(entry)


def _print_entry(entry: Entry[Any]) -> None:
    spec = entry.spec
    say(f"{entry.kind} {entry.name}", bold=True)
    say(spec.summary)
    if spec.deprecated:
        say(f"deprecated: {spec.deprecated}")
    rows = [["from", f"{entry.plugin.distribution} {entry.plugin.version}"]]
    if spec.aliases:
        rows.append(["also called", ", ".join(spec.aliases)])
    if isinstance(spec, BackboneSpec):
        rows += _backbone_rows(spec)
    elif isinstance(spec, HeadSpec):
        rows += [["tasks", ", ".join(spec.tasks)], ["features", ", ".join(spec.features)]]
    elif isinstance(spec, StrategySpec):
        rows += [["role", spec.role], ["touches", ", ".join(sorted(spec.touches)) or "nothing"]]
        rows += [[k, f"{v:g}"] for k, v in vars(spec.defaults).items() if v is not None]
    elif isinstance(spec, RecipeSpec):
        rows += [["means", f"--strategy {expression(spec)}"], *_recipe_rows(spec)]
    paper = getattr(spec, "paper", None)
    if paper is not None:
        rows.append(["paper", f"{paper.title} ({paper.year}), {paper.link}"])
    width = max(len(row[0]) for row in rows)
    for key, value in rows:
        say(f"  {key.ljust(width)}  {value}")
    options = [] if isinstance(spec, RecipeSpec) else describe_options(spec.options)
    if options:
        say()
        cells = [[o.name, o.type, "none" if o.default is None else str(o.default), o.allowed, o.help] for o in options]
        table(cells, ["option", "type", "default", "allowed", "help"])


def _recipe_rows(spec: RecipeSpec) -> list[list[str]]:
    rows = [["head", spec.head]] if spec.head else []
    for number, phase in enumerate(spec.phases, start=1):
        values = [f"{k} {v}" for k in ("rate", "decay", "warmup", "augment") if (v := getattr(phase, k)) is not None]
        values += [f"{name} {k}={v}" for name, given in phase.options.items() for k, v in given.items()]
        rows += [[f"phase {number}", ", ".join(values)]] if values else []
    return rows


def _backbone_rows(spec: BackboneSpec) -> list[list[str]]:
    rows = [["parameters", short_number(spec.parameters)], ["family", spec.family]]
    rows.append(["features", ", ".join(f"{kind} {_words(width)}" for kind, width in spec.features.items())])
    rows.append(["input", describe_input(spec.input)])
    weights = spec.weights
    if weights is None:
        rows.append(["weights", "none"])
    else:
        where = weights.unsafe or (
            f"{weights.repo}/{weights.file}" if weights.repo else f"{weights.package}: {weights.resource}"
        )
        rows += [["weights", ("no safe ones: " if weights.unsafe else "") + where]]
        rows.append(
            [
                "licence",
                (weights.license or "unknown") + (f" ({weights.license_source})" if weights.license_source else ""),
            ]
        )
    rows.append(["capabilities", ", ".join(sorted(spec.capabilities)) or "none"])
    return rows + [[fact.name, f"{fact.value:g}  ({fact.source})"] for fact in spec.facts]


def describe_input(given: Input) -> str:
    """An input in words: ``224 x 224 px, 3 channels, bicubic, center crop 0.875, mean ..., std ...``."""
    if not isinstance(given, ImageInput):
        return ", ".join([given.kind, *(f"{k.replace('_', ' ')} {v}" for k, v in vars(given).items())])
    fixed = " alone" if given.fixed_size else ""
    parts = [f"{given.size[0]} x {given.size[1]} px{fixed}", counted(given.channels, "channel"), given.interpolation]
    parts += [f"{given.crop_mode} crop {given.crop_pct:g}", f"mean {_words(given.mean)}", f"std {_words(given.std)}"]
    return ", ".join(parts)


def _words(value: Any) -> str:
    return " ".join(f"{v:g}" for v in value) if isinstance(value, tuple | list) else str(value)
