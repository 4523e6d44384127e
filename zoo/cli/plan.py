"""Showing a plan: the resolved recipe before a run, and ``--dry-run``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from zoo_registry import Registry

from zoo.assembly.weights import weights_in_words
from zoo.cli.output import counted, emit, say, short_number, table
from zoo.origins import licence_of
from zoo.planning import Plan, Request, make_plan

if TYPE_CHECKING:
    from zoo.recipe import PhaseRecipe


def show_plan(
    request: Request,
    registry: Registry,
    *,
    device: str = "auto",
    hub: str | None = None,
    offline: bool = False,
    batches: int | None = None,
    as_json: bool,
) -> None:
    """Print what a run would do; nothing is downloaded or written."""
    from zoo.cli.preview import print_preview
    from zoo.preview.preview import BATCHES, preview

    plan = make_plan(request, registry, choose_batch=choose_aloud(registry, device, hub, as_json))
    count = BATCHES if batches is None else batches
    found = preview(plan, registry, device=device, hub=hub, offline=offline, batches=count)
    emit(found.to_json(), as_json, lambda: print_preview(found))


def choose_aloud(registry: Registry, device: str, hub: str | None, as_json: bool) -> Callable[[Plan], int]:
    """For ``--batch-size auto``: the largest batch that fits, which is said."""

    def choose(plan: Plan) -> int:
        from zoo.preview.batch import choose_batch

        return choose_batch(registry, device=device, hub=hub, say=lambda line: say(line, as_json=as_json))(plan)

    return choose


def print_recipe(plan: Plan, registry: Registry, *, err: bool = False) -> None:
    """Backbone, head, data and phases, before a run."""
    recipe, entry = plan.recipe, registry.backbone(plan.recipe.backbone.name)
    licence = licence_of(entry.spec, recipe.weights) or "unknown"
    source = weights_in_words(entry.spec, recipe.weights) if recipe.pretrained else "random weights (--no-pretrained)"
    size = short_number(entry.spec.parameters)
    say(f"backbone  {entry.name}, {size} parameters, {source}, licence {licence}", as_json=err)
    say(f"head      {recipe.head.name}", as_json=err)
    for column in plan.data.columns:
        classes = f", {len(column.classes)} classes" if column.classes else ""
        say(f"data      {column.name}: {column.kind}{classes}; {_splits(plan)}", as_json=err)
    options = recipe.train
    batch = f"{options.batch_size}" + (f" x {options.accumulate}" if options.accumulate > 1 else "")
    clip = f", clip {options.clip:g}" if options.clip else ""
    say(f"training  AdamW, {options.schedule}, batch {batch}{clip}, seed {recipe.seed}", as_json=err)
    rows = [[str(i), *phase_cells(phase)] for i, phase in enumerate(recipe.phases, start=1)]
    table(rows, ["phase", "strategies", "length", "rate", "decay", "warm-up", "augment"], err=err)


def phase_cells(phase: PhaseRecipe) -> list[str]:
    """A phase as cells of a table."""
    names = " + ".join(c.name for c in phase.strategies)
    if phase.steps == 0:
        return [names, "no steps", "", "", "", ""]
    length = counted(phase.steps, "step") if phase.steps else counted(phase.epochs or 0, "epoch")
    return [names, length, f"{phase.rate:g}", f"{phase.decay:g}", f"{phase.warmup:g}", str(phase.augment)]


def _splits(plan: Plan) -> str:
    return ", ".join(f"{len(split)} {name}" for name, split in plan.data.splits.items())
