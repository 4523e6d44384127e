"""The recipe as TOML: ``recipe.toml`` of a run, rerunnable with ``zoo finetune --recipe``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from zoo_registry import UsageError, option
from zoo_registry.errors import did_you_mean
from zoo_registry.options import check_options, options_to_dict

from zoo.recipe.recipe import Component, DataOptions, PhaseRecipe, Recipe, TrainOptions

_RUN = ("pretrained", "image_size", "in_chans", "seed")
_TOP = ("backbone", "head", "phase", *_RUN, "data", "train", "weights", "input", "teachers")
PRIVATE = ("path", "given")
"""What of a local weights file only this machine knows."""
_PHASE = ("epochs", "steps", "rate", "decay", "warmup", "augment")


@dataclass(frozen=True, kw_only=True)
class _RunOptions:
    """The top-level values."""

    pretrained: bool = True
    image_size: int | None = option(None, help="pixels", low=8)
    in_chans: int | None = option(None, help="channels", low=1)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class _PhaseOptions:
    """The values of a phase beside its strategies; rates are checked when it is resolved."""

    epochs: int | None = option(None, help="passes over train", low=1)
    steps: int | None = option(None, help="steps in place of epochs", low=0)
    rate: float | None = None
    decay: float | None = None
    warmup: float | None = None
    augment: str = option("", help="level; a text alone, as 'none' is one of the levels")


def recipe_to_dict(recipe: Recipe, *, private: bool = True) -> dict[str, Any]:
    """The recipe as TOML and JSON values; ``private=False`` tells no path of this machine."""
    out: dict[str, Any] = {"pretrained": recipe.pretrained, "seed": recipe.seed}
    for name in ("image_size", "in_chans"):
        if getattr(recipe, name) is not None:
            out[name] = getattr(recipe, name)
    out["backbone"] = _component(recipe.backbone, private)
    out["head"] = _component(recipe.head, private)
    out["phase"] = [_phase(phase, private) for phase in recipe.phases]
    out["data"] = options_to_dict(recipe.data)
    if private and recipe.source is not None:
        out["data"]["source"] = recipe.source
    out["train"] = options_to_dict(recipe.train)
    if recipe.weights:
        hidden = PRIVATE if not private and recipe.weights.get("kind") == "file" else ()
        out["weights"] = {k: v for k, v in recipe.weights.items() if v is not None and k not in hidden}
    if recipe.input:
        out["input"] = {k: list(v) if isinstance(v, tuple) else v for k, v in recipe.input.items()}
    if recipe.teachers:
        out["teachers"] = {name if private else _told(name): dict(pin) for name, pin in recipe.teachers.items()}
    return out


def recipe_from_dict(values: dict[str, Any], *, where: str) -> Recipe:
    """The opposite of :func:`recipe_to_dict`.

    Raises:
        UsageError: names every unknown key and every value of a wrong type at once.
    """
    problems = [_unknown(key, _TOP, "recipe") for key in values if key not in _TOP]
    data_values = dict(_table(values, "data", problems))
    source = data_values.pop("source", None)
    data, wrong = check_options(DataOptions, data_values, where="data")
    problems += wrong
    train, wrong = check_options(TrainOptions, _table(values, "train", problems), where="train")
    problems += wrong
    run, wrong = check_options(_RunOptions, {k: values[k] for k in _RUN if k in values}, where="recipe")
    problems += wrong
    phases = _read_phases(values.get("phase", []), problems)
    parts = {}
    for name in ("backbone", "head"):
        if name not in values:
            problems.append(f"[{name}] is missing")
        parts[name] = _read_component(values.get(name, ""), name, problems)
    weights = _table(values, "weights", problems)
    given = _table(values, "input", problems)
    teachers = _table(values, "teachers", problems)
    if not all(isinstance(p, dict) and all(isinstance(v, str) for v in p.values()) for p in teachers.values()):
        problems.append("[teachers] holds a table of texts for each name")
    if not isinstance(source, str | None) or not all(isinstance(value, str) for value in weights.values()):
        problems.append("data.source and the values of [weights] are texts")
    if problems:
        raise UsageError(
            f"{where}: {'; '.join(problems)}", hint="a run leaves a recipe that works in its folder: RUN/recipe.toml"
        )
    return Recipe(
        backbone=parts["backbone"],
        head=parts["head"],
        phases=phases,
        **vars(run),
        source=source,
        data=data,
        train=train,
        weights=dict(weights) or None,
        input=dict(given) or None,
        teachers={name: dict(pin) for name, pin in teachers.items()},
    )


def _table(values: dict[str, Any], name: str, problems: list[str]) -> dict[str, Any]:
    table = values.get(name, {})
    if isinstance(table, dict):
        return table
    problems.append(f"{name} is {table!r:.60}, not a table")
    return {}


def _read_phases(rows: Any, problems: list[str]) -> tuple[PhaseRecipe, ...]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        problems.append("phase is no list of tables, write [[phase]]")
        return ()
    phases = []
    for number, row in enumerate(rows, start=1):
        at = f"phase {number}"
        named = row.get("strategies")
        if not isinstance(named, list) or not named:
            problems.append(f"{at} names no strategies")
            continue
        strategies = tuple(_read_component(component, at, problems) for component in named)
        options, wrong = check_options(_PhaseOptions, {k: v for k, v in row.items() if k != "strategies"}, where=at)
        problems += wrong
        if not wrong:
            values = {name: value for name, value in vars(options).items() if value not in (None, "")}
            phases.append(PhaseRecipe(strategies=strategies, **values))
    return tuple(phases)


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write ``recipe.toml``."""
    head = "# A resolved recipe; run it again with: zoo finetune --recipe <this file>\n"
    path.write_text(head + tomli_w.dumps(recipe_to_dict(recipe)), encoding="utf-8")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        UsageError: there is no such file, it is no TOML, or it holds wrong keys and values (all are named).
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"no recipe file {str(path)!r}", hint="a run leaves one in its folder: RUN/recipe.toml"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(
            f"{path}: {error}", hint="a run leaves a recipe that works in its folder: RUN/recipe.toml"
        ) from error
    if (key := _secret(values)) is not None:
        raise UsageError(f"{path}: {key!r} holds a token", hint="take it out, and set HF_TOKEN in the environment")
    return recipe_from_dict(values, where=str(path))


def _secret(value: Any, key: str = "recipe") -> str | None:
    """The key of the first text that has a token in it: a recipe is written into run folders and bundles."""
    from zoo.hub.hf_errors import mask

    if isinstance(value, str):
        return key if mask(value) != value else None
    inner = value.items() if isinstance(value, dict) else ((key, v) for v in value) if isinstance(value, list) else ()
    return next((found for k, v in inner if (found := _secret(v, str(k))) is not None), None)


def _component(component: Component, private: bool) -> dict[str, Any]:
    options = component.options if private else {name: _told(value) for name, value in component.options.items()}
    return {"name": component.name, **({"options": options} if options else {})}


def _told(value: Any) -> Any:
    """A value as it may be published: of the path of something on this machine (a teacher) the last part."""
    path = Path(value) if isinstance(value, str) and "\0" not in value else None
    return path.name if path is not None and len(path.parts) > 1 and (path.is_absolute() or path.exists()) else value


def _phase(phase: PhaseRecipe, private: bool) -> dict[str, Any]:
    known = {key: getattr(phase, key) for key in _PHASE if getattr(phase, key) is not None}
    return {**known, "strategies": [_component(c, private) for c in phase.strategies]}


def _read_component(value: Any, where: str, problems: list[str]) -> Component:
    if isinstance(value, str):
        return Component(name=value)
    options = value.get("options", {}) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not isinstance(options, dict):
        problems.append(f"{where}: {value!r:.60} names nothing (write a name, or a table with name and options)")
        return Component(name="")
    problems += [_unknown(key, ("name", "options"), where) for key in value if key not in ("name", "options")]
    return Component(name=value["name"], options=dict(options))


def _unknown(key: str, known: tuple[str, ...], where: str) -> str:
    return f"{where}: unknown key {key!r} ({did_you_mean(key, known) or 'keys: ' + ', '.join(known)})"
