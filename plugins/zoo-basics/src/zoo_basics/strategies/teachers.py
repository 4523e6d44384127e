"""A teacher beside a model: which of its outputs mean the same, and how it is shown the same view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo_registry import Column, ImageInput, UsageError
from zoo_registry.inputs import Input

KINDS = ("classification", "multilabel")
"""Kinds of columns that can be distilled: those with probabilities."""


@dataclass(frozen=True)
class Match:
    """A column and the teacher's column of the same meaning.

    Attributes:
        column: the model's.
        theirs: name of the teacher's.
        order: for each class of the model its place among the teacher's.
    """

    column: Column
    theirs: str
    order: Tensor


def match_columns(name: str, ours: Sequence[Column], theirs: Sequence[Column]) -> list[Match]:
    """Columns matched by name (one each needs none), classes by name.

    Raises:
        UsageError: no column matches, or the teacher lacks classes of one that does; ``name`` is the teacher's.
    """
    known = {column.name: column for column in theirs if column.kind in KINDS}
    found = []
    for column in (c for c in ours if c.kind in KINDS):
        other = known.get(column.name)
        if other is None and len(ours) == len(theirs) == 1:
            other = next(iter(known.values()), None)
        if other is None or other.kind != column.kind:
            continue
        missing = [label for label in column.classes if label not in other.classes]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise UsageError(
                f"the teacher {name!r} does not know {len(missing)} of the {len(column.classes)} classes of "
                f"{column.name!r}: {', '.join(missing[:5])}{more}",
                hint="a teacher must have been trained on all the classes, under the same names",
            )
        order = torch.tensor([other.classes.index(label) for label in column.classes])
        found.append(Match(column, other.name, order))
    if not found:
        raise UsageError(
            f"the teacher {name!r} has nothing to teach: its columns are {_listed(theirs)}, the data's {_listed(ours)}",
            hint=f"columns are matched by name and kind ({' or '.join(KINDS)})",
        )
    return found


def _listed(columns: Sequence[Column]) -> str:
    return ", ".join(f"{column.name} ({column.kind})" for column in columns)


@dataclass(frozen=True)
class Adapter:
    """Brings views [B, C, H, W] that are normalised for the model to the teacher's size and normalisation.

    Attributes:
        ours, theirs: the inputs of model and teacher; both None where the views fit as they are.
    """

    ours: ImageInput | None = None
    theirs: ImageInput | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The view as the teacher wants it; bilinear with antialiasing where the size differs."""
        if self.ours is None or self.theirs is None:
            return x
        pixels = x * _channels(self.ours.std, x) + _channels(self.ours.mean, x)
        if tuple(pixels.shape[2:]) != tuple(self.theirs.size):
            pixels = F.interpolate(pixels, self.theirs.size, mode="bilinear", antialias=True, align_corners=False)
        return (pixels - _channels(self.theirs.mean, x)) / _channels(self.theirs.std, x)

    @property
    def words(self) -> str:
        """What is done, for a plan; empty where nothing is."""
        if self.ours is None or self.theirs is None:
            return ""
        sizes = ["x".join(map(str, found.size)) for found in (self.ours, self.theirs)]
        if sizes[0] == sizes[1]:
            return "views are normalised anew for the teacher"
        return f"views of {sizes[0]} are resized to {sizes[1]} for the teacher"


def adapter(name: str, ours: Input | None, theirs: Input | None) -> Adapter:
    """The adapter from the model's views to the teacher's.

    Raises:
        UsageError: no view of the one can be made of the other's; ``name`` is the teacher's.
    """
    if ours is None or theirs is None:
        return Adapter()
    if isinstance(ours, ImageInput) and isinstance(theirs, ImageInput):
        if ours.channels != theirs.channels:
            raise UsageError(
                f"the teacher {name!r} sees {theirs.channels} channels, the model {ours.channels}",
                hint=f"--in-chans {theirs.channels}, or another teacher",
            )
        alike = (ours.size, ours.mean, ours.std) == (theirs.size, theirs.mean, theirs.std)
        return Adapter() if alike else Adapter(ours, theirs)
    if ours != theirs:
        raise UsageError(
            f"the teacher {name!r} is fed other inputs ({theirs.kind}) than the model ({ours.kind})",
            hint="take a teacher that is fed the same",
        )
    return Adapter()


def _channels(values: Sequence[float], x: Tensor) -> Tensor:
    return torch.tensor(values, dtype=x.dtype, device=x.device)[:, None, None]


def fingerprint(module: nn.Module) -> tuple[float, float]:
    """The sums of all values of a module and of their squares: enough to notice that it was exchanged."""
    tensors = [tensor.double() for tensor in module.state_dict().values()]
    return sum(t.sum().item() for t in tensors), sum(t.square().sum().item() for t in tensors)
