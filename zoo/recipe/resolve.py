"""Resolving a recipe: full names, every default filled in, everything that is wrong reported at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from zoo_registry import Column, Entry, Registry, StrategySpec, UsageError, ZooError
from zoo_registry.options import check_options, options_to_dict
from zoo_registry.strategy import cacheable, order_problems

from zoo.recipe.rates import scaled_rate
from zoo.recipe.recipe import AUGMENTS, Component, PhaseRecipe, Recipe, TrainOptions

DEFAULT_STRATEGY = "linear,full"
FIT_STRATEGY = "fit"
DEFAULT_HEADS = {"classification": "linear", "multilabel": "multilabel", "regression": "regression"}
DEFAULT_MIXED = "multi-task"
DEFAULT_EPOCHS = 10
DEFAULT_RATE, DEFAULT_DECAY, DEFAULT_WARMUP = 1e-3, 0.01, 0.05
LEAST_STEPS, MOST_EPOCHS = 200, 100
"""A phase that names no length gets at least so many steps where the data is small, within so many epochs."""


def default_backbone(registry: Registry) -> str:
    """The backbone that is marked as the best first choice.

    Raises:
        UsageError: no installed plugin recommends one.
    """
    best = max(registry.entries("backbone"), key=lambda entry: entry.spec.recommended, default=None)
    if best is None or best.spec.recommended <= 0:
        raise UsageError("no installed plugin recommends a backbone", hint="choose one: zoo list backbones")
    return best.name


def default_head(columns: tuple[Column, ...]) -> str:
    """The plain head for the kind of the columns; where they differ, one that serves several kinds."""
    if len({column.kind for column in columns}) > 1:
        return DEFAULT_MIXED
    return DEFAULT_HEADS.get(columns[0].kind, DEFAULT_HEADS["classification"])


def resolve_recipe(
    recipe: Recipe, registry: Registry, *, suggested_augment: str = "medium", train_size: int = 10**9
) -> Recipe:
    """Fill in full names and every default.

    Args:
        recipe: as the user wrote it.
        registry: where names are looked up.
        suggested_augment: what the data suggests for the train view where the recipe says ``auto``.
        train_size: number of training samples, for phases that name no length.

    Raises:
        UsageError, PluginError: everything that is wrong with names and options, in one error; where a plugin is
            missing or broken the error is a PluginError.
    """
    errors: list[ZooError] = []
    backbone = _component(recipe.backbone, registry.backbone, errors, "backbone")
    head = _component(recipe.head, registry.head, errors, "head")
    entries = [_phase_entries(phase, registry, errors) for phase in recipe.phases]
    phases: list[PhaseRecipe] = []
    if not errors:
        per_epoch = -(-train_size // (recipe.train.batch_size * recipe.train.accumulate))
        parameters = registry.backbone(backbone.name).spec.parameters
        phases = _resolve_phases(recipe, entries, errors, suggested_augment, per_epoch, parameters)
        errors += _fit_problems(registry, backbone.name, head.name, entries)
        errors += _delta_problems(entries)
        errors += _view_problems(recipe.train, phases, entries)
    if errors:
        raise merge_errors(errors)
    train = dataclasses.replace(recipe.train, epochs=None)  # it stands in a phase now, and would find none to set again
    return dataclasses.replace(recipe, backbone=backbone, head=head, phases=tuple(phases), train=train)


def merge_errors(errors: list[ZooError]) -> ZooError:
    """One error that says them all; its class is the gravest one's (a missing plugin before wrong usage)."""
    if len(errors) == 1:
        return errors[0]
    gravest = max(errors, key=lambda error: error.exit_code)
    hints = list(dict.fromkeys(error.hint for error in errors if error.hint))
    return type(gravest)("; ".join(error.message for error in errors), hint="; ".join(hints) or None)


def run_checks(checks: Iterable[Callable[[], object]]) -> None:
    """Run them all; raise what they raised as one error.

    Raises:
        ZooError: see :func:`merge_errors`.
    """
    errors: list[ZooError] = []
    for check in checks:
        try:
            check()
        except ZooError as error:
            errors.append(error)
    if errors:
        raise merge_errors(errors)


def _component(
    component: Component, find: Callable[[str], Entry[Any]], errors: list[ZooError], where: str
) -> Component:
    try:
        entry = find(component.name)
    except ZooError as error:
        errors.append(error)
        return component
    options, problems = check_options(entry.spec.options, component.options, where=where)
    errors += [UsageError(problem) for problem in problems]
    return Component(name=entry.name, options={} if problems else options_to_dict(options))


def _phase_entries(phase: PhaseRecipe, registry: Registry, errors: list[ZooError]) -> list[Entry[StrategySpec]]:
    found = []
    for component in phase.strategies:
        try:
            found.append(registry.strategy(component.name))
        except ZooError as error:
            errors.append(error)
    return found


def _resolve_phases(
    recipe: Recipe,
    entries: list[list[Entry[StrategySpec]]],
    errors: list[ZooError],
    suggested: str,
    per_epoch: int,
    parameters: int | None,
) -> list[PhaseRecipe]:
    open_phases = [
        i
        for i, phase in enumerate(recipe.phases)
        if phase.epochs is None and phase.steps is None and all(e.spec.gradient for e in entries[i])
    ]
    if recipe.train.epochs is not None and not open_phases:
        errors.append(
            UsageError(
                f"--epochs {recipe.train.epochs} has nothing to set: every phase of {recipe.label()!r} has a length",
                hint="leave the length of the last phase out, as in --strategy linear:3,full --epochs 10",
            )
        )
    resolved = []
    for index, (phase, parts) in enumerate(zip(recipe.phases, entries, strict=True)):
        asked = recipe.train.epochs if open_phases and index == open_phases[-1] else None
        where = f"phase {index + 1}"
        resolved.append(_resolve_phase(phase, parts, recipe, asked, suggested, where, errors, per_epoch, parameters))
    return resolved


def _resolve_phase(
    phase: PhaseRecipe,
    parts: list[Entry[StrategySpec]],
    recipe: Recipe,
    epochs: int | None,
    suggested: str,
    where: str,
    errors: list[ZooError],
    per_epoch: int,
    parameters: int | None,
) -> PhaseRecipe:
    components = []
    for component, entry in zip(phase.strategies, parts, strict=True):
        options, problems = check_options(entry.spec.options, component.options, where=f"strategy.{entry.spec.name}")
        errors += [UsageError(f"{where}: {problem}") for problem in problems]
        components.append(Component(name=entry.name, options={} if problems else options_to_dict(options)))
    specs = [entry.spec for entry in parts]
    errors += [UsageError(f"{where}: {problem}") for problem in order_problems(specs)]
    still = [spec.name for spec in specs if not spec.gradient]
    if still and (phase.epochs or phase.steps):
        plain = "+".join(spec.name for spec in specs)
        errors.append(
            UsageError(f"{where}: {' and '.join(still)} takes no steps, so it has no length", hint=f"write {plain!r}")
        )
    idle = [spec.name for spec in specs if spec.gradient] if still else []
    if idle:
        errors.append(
            UsageError(
                f"{where}: {' and '.join(still)} takes no steps, so {' and '.join(idle)} would do nothing there",
                hint=f"leave it out, or put it into a phase of its own: {still[0]},full+{idle[0]}",
            )
        )
    values = {name: _number(phase, name, where, errors) for name in ("rate", "decay", "warmup")}
    defaults = _defaults(specs)
    augment = phase.augment or recipe.train.augment
    if augment not in AUGMENTS:
        errors.append(UsageError(f"{where}: augment {augment!r} is not one of {', '.join(AUGMENTS)}"))
    if augment == "auto":
        drawn = recipe.train.views and not still  # a head that is fitted sees the exact view
        augment = "none" if rests(specs) and not drawn else suggested
    usual = max(int(defaults["epochs"]), min(MOST_EPOCHS, -(-LEAST_STEPS // per_epoch)))
    length = phase.epochs if phase.epochs is not None else (epochs or usual)
    return PhaseRecipe(
        strategies=tuple(components),
        epochs=None if phase.steps is not None or still else int(length),
        steps=0 if still else phase.steps,
        rate=_first(values["rate"], recipe.train.lr, scaled_rate(defaults["rate"], specs, parameters)),
        decay=_first(values["decay"], recipe.train.weight_decay, defaults["decay"]),
        warmup=_first(values["warmup"], recipe.train.warmup, defaults["warmup"]),
        augment=augment,
    )


def _number(phase: PhaseRecipe, name: str, where: str, errors: list[ZooError]) -> float | None:
    raw: Any = getattr(phase, name)
    if raw is None:
        return None
    try:
        value = float(raw)
    except (TypeError, ValueError):
        errors.append(UsageError(f"{where}: {name} {raw!r} is not a number"))
        return None
    low, high = (0.0, 0.9) if name == "warmup" else (1e-12 if name == "rate" else 0.0, 1e3)
    if not low <= value <= high:
        errors.append(UsageError(f"{where}: {name} {value!r} is out of range ({low:g} to {high:g})"))
        return None
    return value


def _defaults(specs: list[StrategySpec]) -> dict[str, float]:
    """The defaults of the tuning strategy, then of the others, then the house's; a penalty's decay goes first.

    A penalty that names a decay stands in its place: L2-SP pulls to the pretrained weights, decay would pull to zero.
    """
    ordered = sorted(specs, key=lambda spec: spec.role != "tuning")
    decay = next((s.defaults.decay for s in specs if s.role == "penalty" and s.defaults.decay is not None), None)
    house = {"rate": DEFAULT_RATE, "decay": DEFAULT_DECAY, "warmup": DEFAULT_WARMUP, "epochs": DEFAULT_EPOCHS}
    found = {
        name: next((v for s in ordered if (v := getattr(s.defaults, name)) is not None), value)
        for name, value in house.items()
    }
    return found if decay is None else {**found, "decay": decay}


def _first(*values: float | None) -> float:
    return next(float(value) for value in values if value is not None)


def _fit_problems(
    registry: Registry, backbone: str, head: str, entries: list[list[Entry[StrategySpec]]]
) -> list[ZooError]:
    """Capabilities that a strategy needs and backbone or head does not have."""
    body, top = registry.backbone(backbone).spec, registry.head(head).spec
    problems: list[ZooError] = []
    for entry in (e for phase in entries for e in phase):
        missing = sorted(entry.spec.needs - body.capabilities)
        if missing:
            problems.append(
                UsageError(
                    f"strategy {entry.name} needs {', '.join(missing)}, which backbone {backbone} does not have",
                    hint=f"zoo list backbones --capability {missing[0]}",
                )
            )
    return problems + ([] if top.gradient else _unfitted_problems(head, entries))


def _unfitted_problems(head: str, entries: list[list[Entry[StrategySpec]]]) -> list[ZooError]:
    """A head without gradients must be fitted, and before it is its loss says nothing to the backbone."""
    fits = [any("fit" in e.spec.head_needs for e in phase) for phase in entries]
    around = f"--strategy {FIT_STRATEGY}, or around other phases: {FIT_STRATEGY},full,{FIT_STRATEGY}"
    if not any(fits):
        return [UsageError(f"head {head} learns by fitting itself on features, and no phase does that", hint=around)]
    blind = [
        place
        for place, phase in enumerate(entries[: fits.index(True)], 1)
        if all(e.spec.gradient and e.spec.role != "objective" for e in phase)
    ]
    if blind:
        message = f"phase {blind[0]} learns from head {head}, which knows nothing before '{FIT_STRATEGY}' has fitted it"
        return [UsageError(message, hint=around)]
    return []


def rests(specs: Iterable[StrategySpec]) -> bool:
    """Whether the backbone rests in a phase of these strategies; without a tuning everything learns."""
    known = list(specs)
    return cacheable(known) and any(spec.role == "tuning" for spec in known)


def _view_problems(
    train: TrainOptions, phases: list[PhaseRecipe], entries: list[list[Entry[StrategySpec]]]
) -> list[ZooError]:
    """Augmented views are kept as features, so some phase must have features that are kept, and views that differ."""
    if not train.views:
        return []
    if train.features == "off":
        return [UsageError("train.views needs features that are kept", hint="leave --set train.features=off out")]
    resting = [p for p, e in zip(phases, entries, strict=True) if rests(x.spec for x in e) and p.steps != 0]
    if not resting:
        touching = [e.name for phase in entries for e in phase if not cacheable([e.spec])]
        why = f": {', '.join(touching)} touch input or backbone" if touching else ""
        message = f"train.views={train.views} is for a phase in which the backbone rests and a head learns{why}"
        return [UsageError(message, hint="--strategy linear has one; elsewhere each epoch draws views anew")]
    if all(phase.augment == "none" for phase in resting):
        message = f"train.views={train.views} with --augment none would keep {train.views} equal views"
        return [UsageError(message, hint="--augment light, medium or strong, or leave train.views out")]
    return []


def _delta_problems(entries: list[list[Entry[StrategySpec]]]) -> list[ZooError]:
    """A phase begins with a plain model, so what stays a delta ends the recipe; and a bundle holds one."""
    staying = [(place, entry.name) for place, phase in enumerate(entries) for entry in phase if not entry.spec.merges]
    early = [name for place, name in staying if place < len(entries) - 1]
    if early:
        message = f"{early[0]} does not merge into a plain model, so it can only stand in the last phase"
        return [UsageError(message, hint="put it last")]
    if len(staying) > 1:
        names = " and ".join(name for _, name in staying)
        return [
            UsageError(f"{names} do not merge into a plain model, and a phase can hold one of these", hint="drop one")
        ]
    return []
