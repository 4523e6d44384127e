"""From a recipe to a loaded timm model: the quick way, with the file mapped in, and the ordinary way behind it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from zoo_registry import IntegrityError, UsageError, ZooError

from zoo_timm.loading import recorded_load
from zoo_timm.recipe import Recipe
from zoo_timm.skipping import SkippedInit, quick_init

log = logging.getLogger("zoo_timm")


def load(
    recipe: Recipe, weights: Path, *, classes: int = 0, overlay: Mapping[str, Any] | None = None
) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model of ``recipe`` with ``classes`` outputs (0: features), loaded from ``weights``.

    The quick way draws no initial values and maps the file's tensors into the model, copy-on-write: it is the same
    model, bit by bit, in a small part of the time and memory. Where anything of it would not come from the file or
    from its constructor's plain arithmetic (a missing tensor, a random buffer), the model is made the ordinary way,
    with the random numbers that the ordinary way draws.

    Returns:
        The model, and the tensors that timm's key filter made of the file, by name in the model.

    Raises:
        IntegrityError, UsageError: see :func:`guarded`.
    """
    found, reason = _mapped(recipe, weights, classes, overlay)
    if found is not None:
        return found
    log.debug("%s is built the ordinary way: %s", recipe.name, reason)
    with recorded_load() as taken:
        model = guarded(recipe, weights, classes=classes, overlay=overlay)
    return model, taken


def _mapped(
    recipe: Recipe, weights: Path, classes: int, overlay: Mapping[str, Any] | None
) -> tuple[tuple[nn.Module, dict[str, Tensor]] | None, str]:
    """The quick way, or None and why not. The random state is left as it was."""
    skipped = SkippedInit()
    try:
        with recorded_load(assign=True) as taken, quick_init(), skipped:  # the first holds a lock
            model = recipe.create(classes, weights=weights, overlay=overlay)
    except Exception as error:  # whatever it is, the ordinary way says it better
        return None, f"{type(error).__name__}: {error}"
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    if len(names) != sum(1 for _ in model.parameters()):
        return None, "parameters are shared"
    if skipped.read:
        return None, "its construction depends on values of parameters, or on random numbers"
    unfit = skipped.found_in(model)
    return (None, f"{unfit} does not come from the file") if unfit else ((model, taken), "")


def guarded(
    recipe: Recipe, weights: Path | None, *, classes: int = 0, overlay: Mapping[str, Any] | None = None
) -> nn.Module:
    """``recipe.create`` with timm's errors turned into ours.

    Raises:
        IntegrityError: the weights file is not one of this backbone.
        UsageError: timm cannot build it with this image size, number of channels or drop rate.
    """
    try:
        return recipe.create(classes, weights=weights, overlay=overlay)
    except ZooError:
        raise
    except Exception as error:  # timm asserts, raises RuntimeError, TypeError, KeyError... for what does not fit
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        asked = {**recipe.arguments, **recipe.training}
        if weights is not None and not isinstance(error, TypeError | AssertionError):
            message = f"weights file '{weights.name}' does not fit '{recipe.name}': {reason}"
            raise IntegrityError(message, "pull the weights again") from error
        raise UsageError(f"timm cannot build '{recipe.name}' with {asked}: {reason}") from error
