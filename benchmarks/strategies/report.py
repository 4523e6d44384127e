"""The report: claims, tables and settings as Markdown, all numbers as JSON, a figure."""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from claims import Claim, find_claims
from grid import STARTERS, STEPS
from machine import describe_machine, describe_versions
from pool import read_rows
from shifts import SHIFTS
from table import CLEAN, MACRO, SHIFTED, WORST, Row, Table
from tasks import LABELS, LONG_TAIL, TASKS, TEST, WITH_SHIFTS
from tasks import SHIFTED as COUNT
from tune import FEW, TRIED
from ways import SCRATCH, WAYS, Way

COMMAND = "python benchmarks/strategies/run.py"
PLAIN = 1e-3
"""The rate of ``full``, as shipped."""


def write_report(rows: Iterable[Row], folder: Path) -> None:
    """``strategies.md``, ``strategies.json`` and ``strategies.png`` in ``folder``."""
    from figure import draw_figure

    table = Table(rows)
    claims = find_claims(table, STARTERS)
    (folder / "strategies.md").write_text("\n".join(_markdown(table, claims)) + "\n", encoding="utf-8")
    (folder / "strategies.json").write_text(json.dumps(_json(table, claims), indent=1) + "\n", encoding="utf-8")
    draw_figure(table, folder / "strategies.png")


def _markdown(table: Table, claims: list[Claim]) -> list[str]:
    lines = ["# Strategies on small tasks", "", f"Command: `{COMMAND}`", ""]
    versions = describe_versions("torch", "timm", "peft", "scikit-learn", "numpy", "transfer-zoo")
    count = sum(map(len, table.rows.values()))
    lines += [f"Machine: {describe_machine()}; {versions}. {count} runs.", ""]
    lines += [*_about(), "", "![figure](strategies.png)", "", "## What should show", ""]
    tried = read_rows(TRIED)
    for claim in claims:
        lines.append(f"- **{claim.title}: {claim.verdict}.** Bar: {claim.bar}.")
        lines += [f"  - `{f.starter}`: {f.numbers}" for f in claim.findings if f.numbers]
        lines += _tried(claim, tried)
    lines.append("")
    for starter in STARTERS:
        lines += [f"## `starter/{starter}`", "", *_labels(table, starter), *_differences(table, starter)]
        lines += [*_shifted(table, starter), *_glyphs(table, starter), *_imbalanced(table, starter)]
    return [*lines, *_settings()]


def _about() -> list[str]:
    scratch = ", ".join(f"{rate:g} for the {starter}" for starter, rate in SCRATCH.items())
    return [
        f"Every row of a task takes {STEPS} steps of AdamW in batches of 16 (`scratch-long` twice that), on the",
        "same images in each draw, without augmentation but where the strategy is one; the last weights are tested.",
        f"All rates and options are the shipped defaults; the rows from scratch have a rate of their own ({scratch}).",
        "Defaults were tuned on other draws and on a validation set that is no part of the test:",
        "[strategies-tuning.md](strategies-tuning.md).",
        "",
        f"Tests: {10 * TEST} digits, the same for all; {COUNT} of them shifted in four fixed ways; 600 drawings of 60",
        "signs in a bold face of which training saw the regular one, neither signs nor faces known to the starters.",
        f"Imbalanced: {LONG_TAIL[0]} labels of the most frequent digit, {LONG_TAIL[1]} of the least, balanced test.",
        "",
        "Mean ± sample deviation over five draws. Differences in points of a hundred, mean over the draws, and in",
        "brackets how many of the draws were won (ties are not).",
    ]


def _tried(claim: Claim, rows: list[Row]) -> list[str]:
    """What was tried on validation where a penalty does not show, beside plain fine-tuning on the same draws."""
    lines = []
    for finding in claim.findings:
        values: dict[float, list[float]] = defaultdict(list)
        plain: list[float] = []
        for row in rows:
            if row["starter"] == finding.starter and row["task"] in FEW:
                if row["way"] == claim.way and row["what"].startswith("strategy."):
                    values[row["setting"]].append(row["val"]["accuracy"])
                elif row["way"] == "full" and row["setting"] == PLAIN:
                    plain.append(row["val"]["accuracy"])
        if finding.shown is False and values and plain:
            tried = ", ".join(f"{v:g}: {statistics.mean(scores):.3f}" for v, scores in sorted(values.items()))
            said = f"tried on validation at 2 and 5 labels, alpha {tried}; full {statistics.mean(plain):.3f}"
            lines.append(f"  - `{finding.starter}`, {said}")
    return lines


def _table(head: list[str], body: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return [*lines, *("| " + " | ".join(cells) + " |" for cells in body), ""]


def _known(table: Table, starter: str, tasks: Iterable[str]) -> list[Way]:
    return [way for way in WAYS.values() if any(table.has(task, way.name, starter) for task in tasks)]


def _stat(table: Table, task: str, way: str, starter: str, metric: str = CLEAN) -> str:
    stat = table.stat(task, way, starter, metric)
    return stat.text() if stat else ""


def _pair(table: Table, task: str, way: Way, starter: str, metric: str = CLEAN) -> str:
    pair = table.pair(task, way.name, way.against, starter, metric) if way.against else None
    return pair.text() if pair else ""


def _trainable(table: Table, task: str, way: str, starter: str) -> str:
    return f"{table.first(task, way, starter)['trainable']:,}" if table.has(task, way, starter) else ""


def _labels(table: Table, starter: str) -> list[str]:
    tasks = [f"digits-{k}" for k in LABELS]
    ways = _known(table, starter, tasks)
    body = [[f"`{w.name}`", *(_stat(table, t, w.name, starter) for t in tasks)] for w in ways]
    return ["### Digits, labels a class", "", *_table(["row", *map(str, LABELS)], body)]


def _differences(table: Table, starter: str) -> list[str]:
    tasks = [f"digits-{k}" for k in LABELS]
    ways = [w for w in _known(table, starter, tasks) if w.against]
    body = [[f"`{w.name}`", f"`{w.against}`", *(_pair(table, t, w, starter) for t in tasks),
             _trainable(table, f"digits-{WITH_SHIFTS}", w.name, starter)] for w in ways]  # fmt: skip
    head = ["row", "against", *map(str, LABELS), "trainable"]
    return ["Differences, and trainable parameters:", "", *_table(head, body)]


def _shifted(table: Table, starter: str) -> list[str]:
    task = f"digits-{WITH_SHIFTS}"
    ways = _known(table, starter, [task])
    body = [
        [f"`{w.name}`", _stat(table, task, w.name, starter), _stat(table, task, w.name, starter, SHIFTED),
         *(_stat(table, task, w.name, starter, f"shift.{s}") for s in SHIFTS),
         f"`{w.against}`" if w.against else "", _pair(table, task, w, starter, SHIFTED)]
        for w in ways
    ]  # fmt: skip
    head = ["row", "clean", "mean over shifts", *SHIFTS, "against", "difference shifted"]
    return [f"### Digits learnt clean, tested shifted ({WITH_SHIFTS} labels a class)", "", *_table(head, body)]


def _glyphs(table: Table, starter: str) -> list[str]:
    body = [[f"`{w.name}`", _stat(table, "glyphs", w.name, starter), f"`{w.against}`" if w.against else "",
             _pair(table, "glyphs", w, starter), _trainable(table, "glyphs", w.name, starter)]
            for w in _known(table, starter, ["glyphs"])]  # fmt: skip
    head = ["row", "accuracy", "against", "difference", "trainable"]
    return ["### Glyphs: 60 signs, three drawings each, tested in another face", "", *_table(head, body)]


def _imbalanced(table: Table, starter: str) -> list[str]:
    body = [
        [f"`{w.name}`", *(_stat(table, "imbalanced", w.name, starter, m) for m in (CLEAN, MACRO, WORST)),
         f"`{w.against}`" if w.against else "", _pair(table, "imbalanced", w, starter, WORST)]
        for w in _known(table, starter, ["imbalanced"])
    ]  # fmt: skip
    head = ["row", "accuracy", "macro F1", "recall of the worst class", "against", "difference of the worst"]
    return ["### Imbalanced digits", "", *_table(head, body)]


def _settings() -> list[str]:
    """What each row is, as it resolves today."""
    body = []
    for way in WAYS.values():
        rates = _resolved(way)
        body.append([f"`{way.name}`", f"`{way.expression(STEPS)}`", way.head, rates])
    return ["## What each row is", "", *_table(["row", "strategy", "head", "rates and options"], body)]


def _resolved(way: Way) -> str:
    from cell import plan
    from zoo_registry import ZooError

    try:
        recipe = plan("digits-1", way, "vit", 0, steps=STEPS).recipe
    except ZooError:
        return ""
    parts = []
    for phase in recipe.phases:
        options = [
            f"{c.name.rpartition('/')[2]}.{k}={v}"
            for c in phase.strategies
            for k, v in c.options.items()
            if v not in (None, ())
        ]
        parts.append(" ".join([f"rate {phase.rate:g}, decay {phase.decay:g}, warm-up {phase.warmup:g}", *options]))
    return "; then ".join(parts) if any(p.steps for p in recipe.phases) else "no steps"


def _json(table: Table, claims: list[Claim]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for task, way, starter in table.rows:
        cell: dict[str, Any] = {"trainable": table.first(task, way, starter)["trainable"]}
        for metric in (CLEAN, MACRO, WORST, SHIFTED, *(f"shift.{s}" for s in SHIFTS)):
            draws = table.draws(task, way, starter, metric)
            if draws:
                cell[metric] = [round(v, 4) for v in draws.values()]
        cells.setdefault(task, {}).setdefault(starter, {})[way] = cell
    said = [{"claim": c.title, "bar": c.bar, "verdict": c.verdict,
             "findings": {f.starter: f.numbers for f in c.findings}} for c in claims]  # fmt: skip
    order = {task: cells[task] for task in TASKS if task in cells}
    return {"command": COMMAND, "steps": STEPS, "claims": said, "draws": order}
