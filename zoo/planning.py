"""From what the user asks for to a plan that can be shown, with everything wrong reported before anything costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_registry import Input, Registry, UsageError, ZooError
from zoo_registry.options import check_options

from zoo.assembly.fit import check_fit, check_weights, resolve_input
from zoo.data import open_data
from zoo.data.dataset import Dataset
from zoo.origins import Origin, chosen
from zoo.recipe import Component, DataOptions, PhaseRecipe, Recipe, TrainOptions, parse_strategy
from zoo.recipe.named import expand_recipes, find_strategy
from zoo.recipe.recipe import AUTO
from zoo.recipe.resolve import (
    DEFAULT_STRATEGY,
    FIT_STRATEGY,
    default_backbone,
    default_head,
    merge_errors,
    resolve_recipe,
    run_checks,
)
from zoo.recipe.settings import apply_strategy_settings, split_settings, under_root
from zoo.tracking import choose_trackers

PHASE_VALUES = {"lr": "rate", "weight_decay": "decay", "warmup": "warmup", "augment": "augment"}
"""Training option -> the value of a phase that it is the default of."""
BATCH_SETTING = "train.batch_size"
NOBODY = Component(name="")
"""Stands where no backbone could be found, which has been said."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for; None means nothing was said.

    Attributes:
        data: path, ``digits:``, or an object of the Python API.
        settings: ``KEY=VALUE`` texts.
        train, data_options: values for :class:`TrainOptions` and :class:`DataOptions`.
        recipe: a recipe to start from; what is said beside it goes before it.
        trackers: names of those that follow the run; they are no part of its recipe.
        weights: a safetensors file in place of the backbone's own weights.
        origin: what ``backbone`` and ``weights`` came to, see :func:`zoo.origins.settle_origin`.
    """

    data: Any = None
    backbone: str | None = None
    head: str | None = None
    strategy: str | None = None
    settings: tuple[str, ...] = ()
    train: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    recipe: Recipe | None = None
    seed: int | None = None
    pretrained: bool | None = None
    image_size: int | None = None
    in_chans: int | None = None
    trackers: tuple[str, ...] = ()
    weights: str | None = None
    origin: Origin | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A resolved recipe with its opened data, and the trackers that follow the run."""

    recipe: Recipe
    data: Dataset
    source: Any
    trackers: tuple[Component, ...] = ()


def make_plan(request: Request, registry: Registry, *, choose_batch: Callable[[Plan], int] | None = None) -> Plan:
    """Check everything that can be checked without weights.

    Args:
        request: what the user asked for.
        registry: where names are looked up.
        choose_batch: asked for the batch size where the request leaves it to ``auto``.

    Raises:
        UsageError, PluginError: everything wrong with names and options, at once.
        DataError: the data is refused.
    """
    request, auto = _without_auto(request)
    settings, problems = split_settings(request.settings)
    errors: list[ZooError] = [UsageError(problem) for problem in problems]
    base = request.recipe
    train = _options(TrainOptions, base.train if base else None, request.train, under_root(settings, "train"), errors)
    data_options = _options(
        DataOptions, base.data if base else None, request.data_options, under_root(settings, "data"), errors
    )
    phases, strategy_named = _phases(request, errors)
    phases, recipes_head, wrong_recipes = expand_recipes(phases, registry)
    errors += wrong_recipes
    phases = _overridden(phases, request.train, under_root(settings, "train"))
    backbone = _backbone(request, registry, errors)
    backbone = _with_options(backbone, under_root(settings, "backbone"))
    head = _head(request, base, recipes_head)
    early = _draft(request, base, backbone, head or Component(name=""), phases, train, data_options)
    early, wrong = apply_strategy_settings(early, settings)
    errors += [UsageError(problem) for problem in wrong]
    _check_names(registry, early, head, under_root(settings, "head"), errors)
    trackers = choose_trackers(request.trackers, under_root(settings, "tracker"), registry, errors)
    if auto and choose_batch is None:
        errors.append(UsageError("a batch size of auto is for new runs", hint="name a number: --batch-size 64"))
    if errors:
        raise merge_errors(errors)
    source = request.data if request.data is not None else (base.source if base else None)
    if source is None:
        raise UsageError("no DATA given", hint="a folder of class folders, a table, or digits:")
    data = open_recipe_data(source, early)
    if head is None:
        head = Component(name=default_head(data.columns))
    recipe = dataclasses.replace(early, head=_with_options(head, under_root(settings, "head")))
    if not strategy_named and not registry.head(head.name).spec.gradient:
        recipe = dataclasses.replace(recipe, phases=parse_strategy(FIT_STRATEGY))
    if isinstance(source, str | Path):
        recipe = dataclasses.replace(recipe, source=str(source))

    def resolved(recipe: Recipe) -> Recipe:
        suggested, count = data.suggested_augment or "medium", len(data.split("train"))
        return resolve_recipe(recipe, registry, suggested_augment=suggested, train_size=count)

    plan = Plan(recipe=resolved(recipe), data=data, source=source, trackers=trackers)
    _check_fit(plan.recipe, registry, data)
    if not auto or choose_batch is None:
        return plan
    train = dataclasses.replace(recipe.train, batch_size=choose_batch(plan))
    return dataclasses.replace(plan, recipe=resolved(dataclasses.replace(recipe, train=train)))


def _without_auto(request: Request) -> tuple[Request, bool]:
    """The request without a batch size of ``auto``, and whether that is what it asks for, last of all."""
    named = request.train.get("batch_size")
    texts = [text for text in request.settings if text.partition("=")[0] == BATCH_SETTING]
    last = texts[-1].partition("=")[2] if texts else named
    if last != AUTO:
        return request, False
    train = {name: value for name, value in request.train.items() if name != "batch_size"}
    settings = tuple(text for text in request.settings if text not in texts)
    return dataclasses.replace(request, train=train, settings=settings), True


def _check_fit(recipe: Recipe, registry: Registry, data: Dataset) -> None:
    """Backbone, head, data, input and weights must fit each other; all that does not is said at once."""
    backbone, head = registry.backbone(recipe.backbone.name), registry.head(recipe.head.name)
    run_checks(
        (
            lambda: check_fit(backbone, head, data.columns),
            lambda: resolve_input(backbone, recipe.image_size, recipe.in_chans, recipe.input),
            lambda: check_weights(backbone) if recipe.pretrained and not chosen(recipe.weights) else None,
        )
    )


def open_recipe_data(source: Any, recipe: Recipe, **more: Any) -> Dataset:
    """The data as the recipe's options read it."""
    options = recipe.data
    return open_data(
        source,
        image_column=options.image_column,
        label_columns=options.label_columns,
        split_column=options.split_column,
        weight_column=options.weight_column,
        val_fraction=options.val_fraction,
        task=options.task,
        labels_per_class=options.labels_per_class,
        follow_links=options.follow_links,
        strict=options.strict,
        seed=recipe.seed,
        **more,
    )


def _options(
    schema: type, base: Any, said: Mapping[str, Any], settings: Mapping[str, str], errors: list[ZooError]
) -> Any:
    """Options from the recipe file, then what was said by name, then ``--set``."""
    start = {f.name: getattr(base, f.name) for f in dataclasses.fields(schema)} if base is not None else {}
    values = {**{k: v for k, v in start.items() if v is not None}, **{k: v for k, v in said.items() if v is not None}}
    root = "train" if schema is TrainOptions else "data"
    options, problems = check_options(schema, {**values, **settings}, where=root)
    errors += [UsageError(problem) for problem in problems]
    return schema() if problems else options


def _phases(request: Request, errors: list[ZooError]) -> tuple[tuple[PhaseRecipe, ...], bool]:
    if request.strategy is None and request.recipe is not None and request.recipe.phases:
        return request.recipe.phases, True
    named = request.strategy is not None
    try:
        return parse_strategy(request.strategy if request.strategy is not None else DEFAULT_STRATEGY), named
    except UsageError as error:
        errors.append(error)
        return (), True


def _overridden(
    phases: tuple[PhaseRecipe, ...], said: Mapping[str, Any], settings: Mapping[str, str]
) -> tuple[PhaseRecipe, ...]:
    """Phases of a recipe file without the values that the user now gives for all of them."""
    given = {name for name, value in said.items() if value is not None} | set(settings)
    freed: dict[str, Any] = {PHASE_VALUES[name]: None for name in given if name in PHASE_VALUES}
    return tuple(dataclasses.replace(phase, **freed) for phase in phases) if freed else phases


def _backbone(request: Request, registry: Registry, errors: list[ZooError]) -> Component:
    if request.origin is not None:
        return Component(name=request.origin.backbone, options=dict(request.origin.options))
    if request.backbone is not None:
        return Component(name=request.backbone)
    if request.recipe is not None:
        return request.recipe.backbone
    try:
        return Component(name=default_backbone(registry))
    except UsageError as error:
        errors.append(error)
        return NOBODY


def _head(request: Request, base: Recipe | None, recipes_head: str | None) -> Component | None:
    """The head that was said, or that of the recipe file, or the one that goes with a named recipe."""
    if request.head is not None:
        return Component(name=request.head)
    if base is not None:
        return base.head
    return Component(name=recipes_head) if recipes_head is not None else None


def _with_options(component: Component, settings: Mapping[str, str]) -> Component:
    return dataclasses.replace(component, options={**component.options, **settings}) if settings else component


def _draft(
    request: Request,
    base: Recipe | None,
    backbone: Component,
    head: Component,
    phases: tuple[PhaseRecipe, ...],
    train: TrainOptions,
    data: DataOptions,
) -> Recipe:
    def chosen(name: str, default: Any) -> Any:
        said = getattr(request, name)
        return said if said is not None else (getattr(base, name) if base is not None else default)

    pretrained = chosen("pretrained", True)
    same = base is not None and request.backbone in (None, base.backbone.name)
    weights, given = (base.weights, base.input) if base is not None and same else (None, None)
    if request.origin is not None:
        found = request.origin.input
        weights, given = request.origin.weights, _values(found) if found is not None else given
    return Recipe(
        backbone=backbone,
        head=head,
        phases=phases,
        train=train,
        data=data,
        seed=chosen("seed", 0),
        pretrained=pretrained,
        weights=weights if pretrained else None,
        input=given,
        teachers=base.teachers if base is not None else {},
        image_size=chosen("image_size", None),
        in_chans=chosen("in_chans", None),
    )


def _values(given: Input) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(given).items()}


def _check_names(
    registry: Registry, recipe: Recipe, head: Component | None, head_settings: Mapping[str, str], errors: list[ZooError]
) -> None:
    """Names and options that need no data: they are reported before the data is read."""
    looked_up: Iterable[tuple[Any, Component, str]] = [
        (registry.backbone, recipe.backbone, "backbone"),
        *([(registry.head, _with_options(head, head_settings), "head")] if head is not None else []),
        *(
            (lambda name: find_strategy(registry, name), c, f"strategy.{c.name}")
            for phase in recipe.phases
            for c in phase.strategies
        ),
    ]
    for find, component, where in looked_up:
        if component is NOBODY:
            continue
        try:
            entry = find(component.name)
        except ZooError as error:
            errors.append(error)
            continue
        _, problems = check_options(entry.spec.options, component.options, where=where)
        errors += [UsageError(problem) for problem in problems]
