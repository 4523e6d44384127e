"""Whether backbone, head, data and input fit each other: known from the specs alone, before anything is fetched."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from zoo_registry import BackboneSpec, Column, Entry, HeadSpec, ImageInput, Input, UsageError
from zoo_registry.options import parse_options


def check_weights(entry: Entry[BackboneSpec]) -> None:
    """The backbone must have pretrained weights that are safe to load.

    Raises:
        UsageError: it has none.
    """
    weights = entry.spec.weights
    if weights is None:
        raise UsageError(
            f"{entry.name} has no pretrained weights", hint="pass --no-pretrained to start from random weights"
        )
    if weights.unsafe is not None:
        raise UsageError(
            f"{entry.name} has no safe weights: {weights.unsafe}",
            hint="choose another tag (zoo list backbones --weights safe), or start from random ones: --no-pretrained",
        )


def check_fit(backbone: Entry[BackboneSpec], head: Entry[HeadSpec], columns: tuple[Column, ...]) -> str:
    """The kind of features that joins the two.

    Raises:
        UsageError: the head does not serve the columns, or wants features or capabilities that the backbone lacks.
    """
    wrong = [f"{c.name} ({c.kind})" for c in columns if c.kind not in head.spec.tasks]
    if wrong:
        raise UsageError(
            f"head {head.name} is for {', '.join(head.spec.tasks)}, the data has {', '.join(wrong)}",
            hint="leave --head out to get one that serves them, or choose: zoo list heads shows the task of each",
        )
    missing = sorted(head.spec.needs - backbone.spec.capabilities)
    if missing:
        raise UsageError(
            f"head {head.name} needs {', '.join(missing)}, which backbone {backbone.name} does not have",
            hint=f"zoo list backbones --capability {missing[0]}",
        )
    common = [kind for kind in head.spec.features if kind in backbone.spec.features]
    if not common:
        raise UsageError(
            f"head {head.name} takes {' or '.join(head.spec.features)} features, "
            f"backbone {backbone.name} gives {', '.join(backbone.spec.features)}",
            hint="zoo list heads shows what each takes",
        )
    return common[0]


def chosen_input(entry: Entry[BackboneSpec], values: Mapping[str, Any] | None) -> Input:
    """The backbone's own input, or the one that its weights were trained with: a recipe's ``[input]``.

    Raises:
        UsageError: the values are not ones of it.
    """
    own = entry.spec.input
    if values is None:
        return own
    made: Input = parse_options(type(own), {k: v for k, v in values.items() if k != "kind"}, where="input")
    return made


def resolve_input(
    entry: Entry[BackboneSpec], image_size: int | None, in_chans: int | None, start: Mapping[str, Any] | None = None
) -> Input:
    """The backbone's input with the user's image size and channels put in.

    Args:
        entry: the backbone.
        image_size, in_chans: pixels and channels, None: as they are.
        start: values of another input to start from, see :func:`chosen_input`.

    Raises:
        UsageError: the backbone takes neither another size nor other channels, or no images at all.
    """
    given = chosen_input(entry, start)
    if image_size is None and in_chans is None:
        return given
    if not isinstance(given, ImageInput):
        raise UsageError(
            f"{entry.name} takes {given.kind}, so --image-size and --in-chans do not apply", hint="leave them out"
        )
    changes: dict[str, Any] = {}
    if image_size is not None and (image_size, image_size) != given.size:
        if "image_size" not in entry.spec.capabilities:
            raise UsageError(
                f"{entry.name} takes images of {given.size[0]} px alone, not {image_size}",
                hint="leave --image-size out, or: zoo list backbones --capability image_size",
            )
        changes["size"] = (image_size, image_size)
    if in_chans is not None and in_chans != given.channels:
        if "in_chans" not in entry.spec.capabilities:
            raise UsageError(
                f"{entry.name} takes {given.channels} channels alone, not {in_chans}",
                hint="leave --in-chans out, or: zoo list backbones --capability in_chans",
            )
        changes |= {"channels": in_chans, "mean": _spread(given.mean, in_chans), "std": _spread(given.std, in_chans)}
    return dataclasses.replace(given, **changes)


def _spread(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Per-channel statistics for another number of channels: their mean, repeated."""
    return (sum(values) / len(values),) * channels
