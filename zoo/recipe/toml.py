"""The recipe as TOML: ``recipe.toml`` of a run, rerunnable with ``zoo finetune --recipe``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from zoo_registry import UsageError
from zoo_registry.errors import did_you_mean
from zoo_registry.options import check_options, options_to_dict

from zoo.recipe.recipe import Component, DataOptions, PhaseRecipe, Recipe, TrainOptions

_TOP = ("backbone", "head", "phase", "pretrained", "image_size", "in_chans", "seed", "data", "train", "weights")
_PHASE = ("strategies", "epochs", "steps", "rate", "decay", "warmup", "augment")


def recipe_to_dict(recipe: Recipe, *, private: bool = True) -> dict[str, Any]:
    """The recipe as TOML and JSON values; ``private=False`` leaves out where the data lies."""
    out: dict[str, Any] = {"pretrained": recipe.pretrained, "seed": recipe.seed}
    for name in ("image_size", "in_chans"):
        if getattr(recipe, name) is not None:
            out[name] = getattr(recipe, name)
    out["backbone"] = _component(recipe.backbone)
    out["head"] = _component(recipe.head)
    out["phase"] = [_phase(phase) for phase in recipe.phases]
    out["data"] = options_to_dict(recipe.data)
    if private and recipe.source is not None:
        out["data"]["source"] = recipe.source
    out["train"] = options_to_dict(recipe.train)
    if recipe.weights:
        out["weights"] = {k: v for k, v in recipe.weights.items() if v is not None}
    return out


def recipe_from_dict(values: dict[str, Any], *, where: str) -> Recipe:
    """The opposite of :func:`recipe_to_dict`.

    Raises:
        UsageError: names every unknown key and every value of a wrong type at once.
    """
    problems = [_unknown(key, _TOP, where) for key in values if key not in _TOP]
    data_values = dict(values.get("data", {}))
    source = data_values.pop("source", None)
    data, wrong = check_options(DataOptions, data_values, where=f"{where}: data")
    problems += wrong
    train, wrong = check_options(TrainOptions, values.get("train", {}), where=f"{where}: train")
    problems += wrong
    phases: list[PhaseRecipe] = []
    for number, phase in enumerate(values.get("phase", []), start=1):
        problems += [_unknown(key, _PHASE, f"{where}: phase {number}") for key in phase if key not in _PHASE]
        strategies = tuple(_read_component(c, f"{where}: phase {number}", problems) for c in phase.get("strategies", []))
        if not strategies:
            problems.append(f"{where}: phase {number} names no strategies")
        known = {key: phase[key] for key in _PHASE[1:] if key in phase}
        phases.append(PhaseRecipe(strategies=strategies, **known))
    for name in ("backbone", "head"):
        if name not in values:
            problems.append(f"{where}: [{name}] is missing")
    if problems:
        raise UsageError("; ".join(problems), hint="zoo finetune --dry-run prints a recipe to start from")
    return Recipe(
        backbone=_read_component(values["backbone"], f"{where}: backbone", problems),
        head=_read_component(values["head"], f"{where}: head", problems),
        phases=tuple(phases),
        pretrained=bool(values.get("pretrained", True)),
        image_size=values.get("image_size"),
        in_chans=values.get("in_chans"),
        seed=int(values.get("seed", 0)),
        source=source,
        data=data,
        train=train,
        weights=values.get("weights"),
    )


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
        raise UsageError(f"no recipe file {str(path)!r}", hint="a run leaves one in its folder: RUN/recipe.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path}: {error}", hint="zoo finetune --dry-run prints a recipe to start from") from error
    return recipe_from_dict(values, where=str(path))


def _component(component: Component) -> dict[str, Any]:
    return {"name": component.name, **({"options": component.options} if component.options else {})}


def _phase(phase: PhaseRecipe) -> dict[str, Any]:
    known = {key: getattr(phase, key) for key in _PHASE[1:] if getattr(phase, key) is not None}
    return {**known, "strategies": [_component(c) for c in phase.strategies]}


def _read_component(value: Any, where: str, problems: list[str]) -> Component:
    if isinstance(value, str):
        return Component(name=value)
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        problems.append(f"{where}: {value!r} names nothing (write a name, or a table with name and options)")
        return Component(name="")
    problems += [_unknown(key, ("name", "options"), where) for key in value if key not in ("name", "options")]
    return Component(name=value["name"], options=dict(value.get("options", {})))


def _unknown(key: str, known: tuple[str, ...], where: str) -> str:
    return f"{where}: unknown key {key!r} ({did_you_mean(key, known) or 'keys: ' + ', '.join(known)})"
