"""A preview as a person reads it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from zoo.cli.layout import facts, grid
from zoo.cli.output import counted, say, short_number
from zoo.cli.progress import duration
from zoo.preview.report import PHASE_RULE, BlockView, ColumnView, Memory, PhaseView, Preview, StrategyView

SHOWN = 12
"""Classes of a column that are named."""
LINES = 6
"""Lines of what a strategy says of itself."""
ROWS = 30
"""Rows of blocks; more are merged where they differ in rates alone."""


def print_preview(found: Preview) -> None:
    """All of it."""
    facts(_head_rows(found))
    say()
    _print_phases(found.phases)
    for phase in found.phases:
        say()
        _print_phase(phase, found)
    say()
    _print_totals(found)


def _head_rows(found: Preview) -> list[tuple[str, str]]:
    size, licence = short_number(found.backbone["parameters"]), found.backbone["license"] or "unknown"
    here = {True: "", False: " (not on this machine)", None: ""}[found.weights_cached]
    words = f"{found.weights}{here}, licence {licence}" if found.weights != "none (random)" else "random weights"
    rows = [("backbone", f"{found.backbone['name']}, {size} parameters, {words}")]
    features, head = found.backbone["features"], f"{found.head['name']}"
    if features is not None:
        head += f" on {features['kind']} features of width {features['width']}"
        head += f", {short_number(found.head['parameters'])} parameters"
    rows.append(("head", head))
    splits = ", ".join(f"{count} {name}" for name, count in found.data["splits"].items())
    for column in found.data["columns"]:
        rows += column_rows(column, splits)
    rows.append(("images" if found.transforms["normalise"] else "input", _input_words(found)))
    train = found.recipe["train"]
    batch = f"batch {train['batch_size']}" + (f" x {train['accumulate']}" if train["accumulate"] > 1 else "")
    clip = f", clip {train['clip']:g}" if train["clip"] else ""
    seed = found.recipe.get("seed", 0)
    rows.append(("training", f"AdamW, {train['schedule']} schedule, {batch}{clip}, seed {seed}"))
    rows.append(("", PHASE_RULE))
    rows.append(("compute", found.compute))
    return rows


def _input_words(found: Preview) -> str:
    words = [found.transforms["eval"], found.transforms["normalise"]]
    return "; ".join(word for word in words if word)


def column_rows(column: ColumnView, splits: str) -> list[tuple[str, str]]:
    """A target column: kind, classes with their counts in train."""
    missing = f", {column.missing} of train without a label" if column.missing else ""
    if column.range is not None:
        low, mean, high = column.range
        spread = f" from {low:g} to {high:g}, mean {mean:.4g}"
        return [("data", f"{column.name}: {column.kind}{spread}{missing}; {splits}")]
    if not column.classes:
        return [("data", f"{column.name}: {column.kind}{missing}; {splits}")]
    rows = [("data", f"{column.name}: {column.kind}, {len(column.classes)} classes{missing}; {splits}")]
    named = [f"{name} {count}" for name, count in list(column.counts.items())[:SHOWN]]
    more = len(column.classes) - len(named)
    least, most = min(column.counts.values()), max(column.counts.values())
    rest = f", and {more} more classes with {least} to {most} samples" if more else ""
    return [*rows, ("", f"in train: {', '.join(named)}{rest}")]


def _print_phases(phases: Sequence[PhaseView]) -> None:
    """The phases, a row each."""
    timed = any(phase.estimate for phase in phases)
    header = ["phase", "strategies", "length", "rate", "learns", *(["time", "memory"] if timed else [])]
    rows = []
    for phase in phases:
        cells = [str(phase.phase + 1), " + ".join(strategy.name for strategy in phase.strategies), _short_length(phase)]
        cells += [f"{phase.rate:g}" if phase.steps else "", _share(phase)]
        if timed:
            estimate = phase.estimate
            cells += [time_words(estimate.seconds), size_words(estimate.memory.peak)] if estimate else ["", ""]
        rows.append(cells)
    grid(rows, header, right=("phase", "rate"), fixed=[name for name in header if name != "strategies"])


def _short_length(phase: PhaseView) -> str:
    if not phase.steps:
        return "no steps"
    return counted(phase.epochs, "epoch") if phase.epochs is not None else counted(phase.steps, "step")


def _share(phase: PhaseView) -> str:
    total, trainable = phase.parameters.get("total", 0), phase.parameters.get("trainable", 0)
    return percent(trainable, total) if phase.steps else "no gradients"


def percent(part: int, whole: int) -> str:
    """``0.26 %``."""
    return f"{100 * part / max(1, whole):.3g} %"


def _print_phase(phase: PhaseView, found: Preview) -> None:
    """A phase: what it says, who learns, what it costs."""
    say(f"phase {phase.phase + 1}: {phase.label.removesuffix(':0s')}, {_length(phase)}", bold=True)
    totals = phase.parameters
    rows = [("learns", _learns(phase)), ("rate", _schedule(phase))] if phase.steps else []
    if phase.cached:
        views = f"of {counted(phase.views, 'augmented view')} an image, " if phase.views else ""
        rows.append(("features", f"{views}computed once and kept; the backbone is not run again"))
    rows.append(("images", f"augment {phase.augment}: {phase.train_view}" if phase.steps else "evaluation view"))
    for strategy in phase.strategies:
        name, lines = strategy.name.rpartition("/")[2], shortened(strategy.says) or _options(strategy)
        rows += [("" if i else name, line) for i, line in enumerate(lines)]
    if phase.estimate is not None:
        rows += _cost_rows(phase, min(phase.batch_size, found.data["splits"]["train"]))
    facts(rows, indent=2, key_width=max([9, *(len(key) + 1 for key, _ in rows)]))
    if phase.blocks and phase.steps and totals:
        print_blocks(phase, found.head["name"])


def _options(strategy: StrategyView) -> list[str]:
    """The options of one that says nothing of itself."""
    given = [f"{name} {value}" for name, value in strategy.options.items()]
    return [", ".join(given)] if given else []


def shortened(lines: Sequence[str]) -> list[str]:
    """The first and last of many lines."""
    if len(lines) <= LINES:
        return list(lines)
    return [*lines[: LINES - 2], f"... {len(lines) - LINES + 1} more", lines[-1]]


def _length(phase: PhaseView) -> str:
    if not phase.steps:
        return "no steps"
    steps, each = counted(phase.steps, "step"), counted(phase.steps_per_epoch, "step")
    if phase.epochs is not None:
        return f"{counted(phase.epochs, 'epoch')} of {each}"
    return f"{steps}, {phase.steps / phase.steps_per_epoch:.3g} epochs of {each}"


def _learns(phase: PhaseView) -> str:
    totals = phase.parameters
    text = (
        f"{totals['trainable']:,} of {totals['total']:,} parameters ({percent(totals['trainable'], totals['total'])})"
    )
    if totals["trainable_at_start"] != totals["trainable"]:
        text += f", {totals['trainable_at_start']:,} in the first epoch"
    if totals["injected"]:
        text += f"; {totals['injected']:,} are added by the strategies"
    return text


def _schedule(phase: PhaseView) -> str:
    """The rate over the phase, decay and batch."""
    warm = f" after {counted(phase.warmup_steps, 'step')} of warm-up" if phase.warmup_steps else ""
    batch = f"{phase.batch_size}" + (f" x {phase.accumulate}" if phase.accumulate > 1 else "")
    return f"peak {phase.rate:g}{warm}, then {phase.schedule}; weight decay {phase.decay:g}; batch {batch}"


def _cost_rows(phase: PhaseView, full: int) -> list[tuple[str, str]]:
    found = phase.estimate
    assert found is not None
    parts = [f"{time_words(found.seconds)} in all"]
    if phase.steps:
        parts += [
            f"{speed_words(found.images_per_second or 0.0)} images/s",
            f"{time_words(found.seconds_per_epoch)} an epoch",
        ]
    if found.extraction_seconds:
        parts.append(f"{time_words(found.extraction_seconds)} for features")
    scaled = found.batch_size < full and phase.steps and not phase.cached
    how = f" (timed on batches of {found.batch_size})" if scaled else ""
    return [("time", "about " + ", ".join(parts) + how), ("memory", f"about {memory_words(found.memory)}")]


def speed_words(number: float) -> str:
    """``0.8``, ``9.2``, ``1,250``."""
    return f"{number:.1f}" if number < 10 else f"{number:,.0f}"


def time_words(seconds: float) -> str:
    """``0.2 s``, ``45 s``, ``3 min``."""
    return f"{max(seconds, 0.1):.1f} s" if seconds < 2 else duration(seconds)


def memory_words(memory: Memory) -> str:
    """The peak and what makes it up."""
    names = ("weights", "copies", "gradients", "optimiser", "strategies", "activations", "images")
    parts = [f"{name} {size_words(n)}" for name in names if (n := getattr(memory, name)) >= 0.01 * memory.peak]
    return f"{size_words(memory.peak)}: {', '.join(parts)}"


def size_words(size: float) -> str:
    """``412 MB``."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} B"


def print_blocks(phase: PhaseView, head: str) -> None:
    """A row a block; equal neighbours share one. A block may be called head too, so the head shows its own name."""
    rows = merged_blocks(phase.blocks)
    late = any(r.from_epoch or r.until_epoch is not None for group in rows for r in group)
    injected, norms = any(b.injected for b in phase.blocks), any(b.norm_statistics for b in phase.blocks)
    header = ["block", "learns", *(["from"] if late else []), "rate", "decay", "parameters"]
    header += (["added"] if injected else []) + (["BatchNorm"] if norms else [])
    cells = []
    for group in rows:
        first = group[0]
        name = f"head ({head.rpartition('/')[2]})" if first.part == "head" else group_name(group)
        row = [name, _learning(group), *([_from(group)] if late else []), _rates(group)]
        row += [_decays(first), short_number(sum(b.parameters for b in group))]
        row += [short_number(sum(b.injected for b in group) or None)] if injected else []
        row += [{"move": "statistics move", "rest": "at rest", None: ""}[first.norm_statistics]] if norms else []
        cells.append(row)
    grid(cells, header, right=("parameters", "added"), fixed=("rate", "decay", "parameters", "from"), indent=2)


def merged_blocks(blocks: Sequence[BlockView]) -> list[list[BlockView]]:
    """Neighbours in groups; where that still makes too many rows, those that differ in rates alone join."""
    groups = _grouped(blocks, rates=True)
    return groups if len(groups) <= ROWS else _grouped(blocks, rates=False)


def _grouped(blocks: Sequence[BlockView], *, rates: bool) -> list[list[BlockView]]:
    groups: list[list[BlockView]] = []
    for block in blocks:
        last = groups[-1][-1] if groups else None
        if last is not None and last.part == block.part == "backbone" and last.alike(block, rates=rates):
            groups[-1].append(block)
        else:
            groups.append([block])
    return groups


def group_name(group: Sequence[BlockView]) -> str:
    """``blocks.0-10`` of numbered neighbours, ``stem ... layer4`` of others."""
    first, last = group[0].name, group[-1].name
    if len(group) == 1:
        return f"{first} (auxiliary)" if group[0].part == "auxiliary" else first
    numbered = [re.fullmatch(r"(.*?)(\d+)", block.name) for block in group]
    if all(numbered) and len({match[1] for match in numbered if match}) == 1:
        return f"{first}-{numbered[-1][2]}"  # type: ignore[index]
    return f"{first} ... {last} ({len(group)})"


def _learning(group: Sequence[BlockView]) -> str:
    if group[0].share == "part":
        return percent(sum(b.trainable for b in group), sum(b.parameters for b in group))
    return {"none": "frozen", "all": "all"}[group[0].share]


def _from(group: Sequence[BlockView]) -> str:
    first = group[0]
    if first.from_epoch is None:
        return ""
    if first.until_epoch is not None:
        return f"epoch {first.from_epoch + 1}-{first.until_epoch + 1}"
    return f"epoch {first.from_epoch + 1}"


def _rates(group: Sequence[BlockView]) -> str:
    found = [rate for block in group if block.rate for rate in block.rate]
    if not found:
        return ""
    low, high = min(found), max(found)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _decays(block: BlockView) -> str:
    if block.decay is None:
        return ""
    low, high = block.decay
    return f"{high:.3g}" if low in (0, high) else f"{low:.3g} to {high:.3g}"


def _print_totals(found: Preview) -> None:
    rows = [("note", note) for note in found.notes]
    rows += [("not measured" if not i else "", line) for i, line in enumerate(found.not_measured)]
    if found.seconds is not None and found.peak_bytes is not None:
        timed = max((p.estimate.batches for p in found.phases if p.estimate), default=0)
        text = f"about {time_words(found.seconds)} and {size_words(found.peak_bytes)} of memory on {found.device}"
        basis = f"{counted(timed, 'step')} a phase on real batches" if timed else "a few real batches"
        rows.append(("in all", f"{text}; an estimate from {basis}, with random weights of the same shapes"))
    facts(rows, key_width=max([9, *(len(key) + 1 for key, _ in rows)]))
    click.echo("dry run: nothing was downloaded, trained or written")
