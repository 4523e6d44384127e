"""``zoo finetune --find-lr``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from zoo_registry import Registry

from zoo.cli.output import emit, quoted, say
from zoo.planning import Request, make_plan
from zoo.rates.finding import PhaseRates

ENDS = {"diverged": "the loss ran away", "not finite": "the loss was no number any more", "complete": ""}
DROPPED = {"--find-lr": 0, "--json": 0, "--phase": 1, "--lr": 1}
"""Options that the next command does not have, and how many words follow them."""


def show_rates(
    request: Request,
    registry: Registry,
    phase: int | None,
    out: Path | None,
    *,
    device: str,
    hub: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Try the rates, write curve and numbers into ``out`` or the current folder, print what they suggest."""
    from zoo.cli.finetune import open_live_reporter
    from zoo.cli.plan import choose_aloud, print_recipe
    from zoo.rates.find import find_rates

    plan = make_plan(request, registry, choose_batch=choose_aloud(registry, device, hub, as_json))
    print_recipe(plan, registry, err=as_json)
    with open_live_reporter(as_json) as reporter:
        found = find_rates(
            plan, registry, phase=phase, device=device, hub=hub, offline=offline, reporter=reporter
        )  # fmt: skip
    data, figure = found.write(out if out is not None else Path())
    words = click.get_current_context().meta.get("words", [])
    command = " ".join(["zoo finetune", *(quoted(word) for word in next_words(words, found.options))])
    value = {**found.to_json(), "files": [str(data), str(figure)], "next": command if found.options else None}

    def human() -> None:
        for ramp in found.phases:
            say(f"phase {ramp.phase + 1}, {ramp.label}: {in_words(ramp)}", bold=ramp.suggestion is not None)
        for note in found.notes:
            say(f"note: {note}")
        say(f"curve: {figure}    numbers: {data}")
        if found.options:
            say(f"next: {command}")

    emit(value, as_json, human)


def in_words(ramp: PhaseRates) -> str:
    """The suggestion and what it rests on."""
    last = f"{ENDS[ramp.end]} at {ramp.rates[-1]:.1e}" if ramp.rates and ENDS[ramp.end] else ""
    if ramp.suggestion is None or ramp.found.lowest is None:
        return ", ".join(["no suggestion", *([last] if last else [])])
    parts = [f"learning rate {ramp.suggestion:g} (there the loss falls fastest; the recipe has {ramp.rate:g})"]
    parts.append(f"lowest loss at {ramp.found.lowest:.1e}")
    return ", ".join([*parts, *([last] if last else [])])


def next_words(words: Sequence[str], options: Iterable[str]) -> list[str]:
    """The words of the command that takes the suggestion: those that were typed, the rate put in."""
    kept, skip = [], 0
    for word in words:
        name, equals, _ = word.partition("=")
        if skip:
            skip -= 1
        elif name in DROPPED:
            skip = 0 if equals else DROPPED[name]
        else:
            kept.append(word)
    return [*kept, *options]
