"""Fills in what ``docs/strategies.md`` and ``docs/heads.md`` repeat of the specs and of the benchmark.

The pages are written by hand but for blocks such as ``<!-- strategy basics/full -->`` ... ``<!-- end -->``; what stands
between is written here. ``--check`` says what has drifted, which spec has no block, and writes nothing.

python docs/generate_strategies.py [--check]
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_registry import Entry, HeadSpec, RecipeSpec, Registry, StrategySpec, discover
from zoo_registry.discovery import Selection
from zoo_registry.options import describe_options
from zoo_registry.specs import ROLES

from zoo.cli.listing import expression

FOLDER = Path(__file__).parent
PAGES = {"strategies.md": ("strategy", "recipe"), "heads.md": ("head",)}
"""Page -> the kinds of which it has a block for every spec."""
RESULTS = FOLDER.parent / "benchmarks" / "results" / "strategies.json"
COMMAND = "python benchmarks/strategies/run.py"
MEASURED = (
    ("digits-1", "accuracy", "one label a class"),
    ("digits-10", "accuracy", "ten labels"),
    ("digits-10", "shifted", "tested shifted"),
    ("glyphs", "accuracy", "glyphs"),
    ("imbalanced", "worst", "worst class under imbalance"),
)
"""Task, metric and their words, of the lines in the sections."""
BLOCK = re.compile(r"<!-- (?P<kind>[a-z]+) (?P<name>\S+) -->\n.*?<!-- end -->", re.DOTALL)


def own_registry() -> Registry:
    """What the plugins of this repository offer, whatever else is installed."""
    files = sorted((FOLDER.parent / "plugins").glob("*/pyproject.toml"))
    groups = (tomllib.loads(file.read_text(encoding="utf-8"))["project"]["entry-points"] for file in files)
    return Registry(discover(selection=Selection(frozenset(name for group in groups for name in group["zoo"]), {})))


def page(name: str, registry: Registry) -> str:
    """The page with every block filled in."""
    text = (FOLDER / name).read_text(encoding="utf-8")

    def fill(block: re.Match[str]) -> str:
        return "\n".join(
            [block.group().splitlines()[0], *_content(block["kind"], block["name"], registry), "<!-- end -->"]
        )

    return BLOCK.sub(fill, text)


def _content(kind: str, name: str, registry: Registry) -> list[str]:
    if kind == "table":
        tables: dict[str, Callable[[Registry], list[str]]] = {
            "strategies": _strategies,
            "recipes": _recipes,
            "heads": _heads,
        }
        return ["", *tables[name](registry), ""]
    if kind == "measured":
        return ["", *_measured(name), ""]
    entry: Any = registry.find(kind, name)
    sections: dict[str, Callable[[Any], list[str]]] = {"strategy": _strategy, "recipe": _recipe, "head": _head}
    return ["", *sections[kind](entry), ""]


def _strategies(registry: Registry) -> list[str]:
    entries = sorted(registry.entries("strategy"), key=lambda e: ROLES.index(e.spec.role))
    rows = [[e.spec.role, _link(e), e.spec.summary] for e in entries]
    return _table(["role", "strategy", "what it does"], rows)


def _recipes(registry: Registry) -> list[str]:
    rows = [[_link(e), f"`{expression(e.spec)}`", e.spec.summary] for e in registry.entries("recipe")]
    return _table(["recipe", "stands for", "what it does"], rows)


def _heads(registry: Registry) -> list[str]:
    rows = [[_link(e), ", ".join(e.spec.tasks), e.spec.summary] for e in registry.entries("head")]
    return _table(["head", "tasks", "what it does"], rows)


def _strategy(entry: Entry[StrategySpec]) -> list[str]:
    spec = entry.spec
    facts = [f"`{entry.name}`", spec.role, f"touches {', '.join(sorted(spec.touches)) or 'nothing but the head'}"]
    facts += [f"needs `{need}`" for need in sorted(spec.needs)]
    facts += [f"needs a head with `{need}()`" for need in sorted(spec.head_needs)]
    facts += [f"reads the stream {stream.name}" for stream in spec.streams]
    facts += [] if spec.gradient else ["takes no steps"]
    facts += [] if spec.merges else ["its result stays a delta"]
    return [*_about(spec, facts), *_defaults(spec), *_options(spec), *_measured_lines(spec.name)]


def _recipe(entry: Entry[RecipeSpec]) -> list[str]:
    spec = entry.spec
    facts = [f"`{entry.name}`", f"stands for `{expression(spec)}`"]
    facts += [f"head `{spec.head}`"] if spec.head else []
    rows = []
    for number, phase in enumerate(spec.phases, start=1):
        values = {k: getattr(phase, k) for k in ("epochs", "rate", "decay", "warmup", "augment")}
        said = [f"{k} {_plain(v)}" for k, v in values.items() if v is not None]
        said += [f"{_short(n)}.{k} {_plain(v)}" for n, given in phase.options.items() for k, v in given.items()]
        rows += [[str(number), "+".join(map(_short, phase.strategies)), ", ".join(said) or "the strategies' own"]]
    phases = _table(["phase", "strategies", "values"], rows)
    return [*_about(spec, facts), "", *phases, *_measured_lines(spec.name)]


def _head(entry: Entry[HeadSpec]) -> list[str]:
    spec = entry.spec
    facts = [f"`{entry.name}`", f"tasks {', '.join(spec.tasks)}", f"features {', '.join(spec.features)}"]
    facts += [f"needs `{need}`" for need in sorted(spec.needs)]
    facts += [] if spec.gradient else ["no gradient trains it"]
    return [*_about(spec, facts), *_options(spec), *_measured_lines(spec.name)]


def _about(spec: StrategySpec | RecipeSpec | HeadSpec, facts: Sequence[str]) -> list[str]:
    paper = spec.paper
    source = [f"[{paper.title}, {paper.year}]({paper.link})"] if paper else []
    return [f"{spec.summary[0].upper()}{spec.summary[1:]}.", "", " · ".join([*facts, *source])]


def _defaults(spec: StrategySpec) -> list[str]:
    given = [("rate", "rate"), ("decay", "decay"), ("warmup", "warm-up"), ("epochs", "epochs")]
    said = [f"{word} {_plain(v)}" for key, word in given if (v := getattr(spec.defaults, key)) is not None]
    return ["", f"Defaults of its phase: {', '.join(said)}."] if said else []


def _options(spec: Any) -> list[str]:
    rows = [[f"`{o.name}`", o.type, _plain(o.default), o.allowed, o.help] for o in describe_options(spec.options)]
    return ["", *_table(["option", "type", "default", "allowed", "meaning"], rows)] if rows else []


def _plain(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, tuple):
        return ",".join(map(_plain, value)) or "empty"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) or "empty"


def _measured(name: str) -> list[str]:
    """The claims, or the table of one starter; a line where nobody has measured."""
    found = _results()
    if found is None:
        return [f"Not measured yet: `{COMMAND}` does it."]
    if name == "claims":
        rows = [[claim["claim"], claim["verdict"], claim["bar"]] for claim in found["claims"]]
        return _table(["what should show", "whether it does", "the bar"], rows)
    columns = [(t, "accuracy") for t in found["draws"] if t != "imbalanced"]
    columns += [("digits-10", "shifted"), ("imbalanced", "accuracy"), ("imbalanced", "worst")]
    ways = dict.fromkeys(way for task in found["draws"].values() for way in task.get(name, {}))
    cells = [[_mean(found, task, name, way, metric) for task, metric in columns] for way in ways]
    heads = [task if metric == "accuracy" else f"{task}, {metric}" for task, metric in columns]
    rows = [[way, *row, _share(found, name, way)] for way, row in zip(ways, cells, strict=True)]
    return _table(["", *heads, "parameters that learn"], rows)


def _results() -> dict[str, Any] | None:
    """The benchmark's ``{claims: [...], draws: {task: {starter: {row: {metric: [value a draw]}}}}}``."""
    found: dict[str, Any] | None = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else None
    return found


def _mean(found: Mapping[str, Any], task: str, starter: str, way: str, metric: str) -> str:
    values = found["draws"].get(task, {}).get(starter, {}).get(way, {}).get(metric)
    return f"{statistics.mean(values):.3f}" if values else ""


def _share(found: Mapping[str, Any], starter: str, way: str) -> str:
    """The parameters that learn as a share of those of ``full``, on the first task that has both."""
    for rows in found["draws"].values():
        row = rows.get(starter, {})
        if way in row and "full" in row:
            return f"{row[way]['trainable'] / row['full']['trainable']:.2%}"
    return ""


def _measured_lines(name: str) -> list[str]:
    """What the benchmark says of the row ``name``, for the section of the strategy or head of that name."""
    found = _results()
    lines = []
    for starter in next(iter(found["draws"].values()), {}) if found else ():
        said = []
        for task, metric, words in MEASURED:
            mine, full = (_mean(found or {}, task, starter, way, metric) for way in (name, "full"))
            said += [f"{words} {mine}" + (f" (`full` {full})" if name != "full" else "")] if mine and full else []
        lines += [f"- Measured on `starter/{starter}`: {', '.join(said)}."] if said else []
    return ["", *lines] if lines else []


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def _link(entry: Entry[Any]) -> str:
    return f"[`{entry.spec.name}`](#{entry.spec.name})"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in (header, *cells)]
    return [lines[0], "|" + "---|" * len(header), *lines[1:]]


def problems() -> list[str]:
    """Pages that are not as generated, and specs without a block or blocks without a spec, a line each."""
    registry, found = own_registry(), []
    for name, kinds in PAGES.items():
        text = (FOLDER / name).read_text(encoding="utf-8")
        blocks = {(block["kind"], block["name"]) for block in BLOCK.finditer(text) if block["kind"] in kinds}
        wanted = {(kind, entry.name) for kind in kinds for entry in registry.entries(kind)}
        found += [f"{name} has no section of {kind} {spec}" for kind, spec in sorted(wanted - blocks)]
        gone = sorted(blocks - wanted)
        found += [f"{name} has a section of {kind} {spec}, which nothing offers" for kind, spec in gone]
        if not gone and page(name, registry) != text:
            found.append(f"{name} is not what the specs and the benchmark say")
    return found


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    if arguments != ["--check"]:
        registry = own_registry()
        for name in PAGES:
            text = page(name, registry)
            (FOLDER / name).write_text(text, encoding="utf-8")
    found = problems()
    print("\n".join(found) or "docs/strategies.md and docs/heads.md are what the specs and the benchmark say")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
