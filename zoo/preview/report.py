"""The data of a preview. ``docs/formats.md`` has it as the JSON of ``zoo finetune --dry-run --json``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

FORMAT = 1
"""Of the JSON; fields may be added without a new number."""

PHASE_RULE = "each phase starts a fresh optimiser and schedule; phase borders are exact resume points"
"""What becomes of the optimiser's state between phases."""


@dataclass(frozen=True, kw_only=True)
class BlockView:
    """What a block of the backbone, the head, or an auxiliary module does in a phase.

    Attributes:
        name: of the block; ``head``; of the auxiliary module.
        part: ``backbone``, ``head`` or ``auxiliary``.
        parameters: how many, injected ones included.
        trainable: how many of them learn at any time of the phase.
        injected: how many of them a strategy brought along.
        from_epoch: the first epoch (from 0) in which any of it learns; None where it is frozen.
        until_epoch: the last epoch in which any of it learns, where that is before the phase's end.
        rate: least and greatest peak rate of what learns.
        decay: least and greatest weight decay of what learns.
        norm_statistics: ``move`` or ``rest``, of BatchNorm; None where it has none.
    """

    name: str
    part: str
    parameters: int
    trainable: int
    injected: int = 0
    from_epoch: int | None = None
    until_epoch: int | None = None
    rate: tuple[float, float] | None = None
    decay: tuple[float, float] | None = None
    norm_statistics: str | None = None

    def alike(self, other: BlockView, *, rates: bool = True) -> bool:
        """Whether a person may see the two in one row: all but names and sizes agree (and ``rates``, where asked)."""
        said = (self.part, self.share, self.from_epoch, self.until_epoch, self.norm_statistics, bool(self.injected))
        told = (other.part, other.share, other.from_epoch, other.until_epoch, other.norm_statistics)
        same = said == (*told, bool(other.injected))
        return same and (not rates or (self.rate == other.rate and self.decay_high == other.decay_high))

    @property
    def decay_high(self) -> float | None:
        """The greatest weight decay: vectors have none, and whether a block has any matters to nobody."""
        return self.decay[1] if self.decay else None

    @property
    def share(self) -> str:
        """``all``, ``part`` or ``none`` of its parameters learn."""
        return "none" if not self.trainable else "all" if self.trainable == self.parameters else "part"


@dataclass(frozen=True, kw_only=True)
class StrategyView:
    """A strategy of a phase: full name, role, options, and what it says of itself (``Strategy.explain``)."""

    name: str
    role: str
    options: dict[str, Any]
    says: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak memory of a phase on its device, in bytes, by what it is for.

    Attributes:
        weights: of the model, injected and auxiliary modules included.
        copies: pretrained weights and those at the phase's start, the best epoch's, references and teachers.
        gradients, optimiser: of everything that learns at the end of the phase.
        strategies: what strategies keep (averages).
        activations: kept for the backward pass of one micro-batch, and the largest layer's gradients; in a pass
            without one the largest layer's own.
        images: decoded images kept in memory, where the device is the CPU.
        measured: what the device itself counted (CUDA), brought to the full batch; None where it cannot count.
    """

    weights: int
    copies: int
    gradients: int
    optimiser: int
    strategies: int
    activations: int
    images: int = 0
    measured: int | None = None

    @property
    def peak(self) -> int:
        """Bytes in all."""
        parts = (self.weights, self.copies, self.gradients, self.optimiser, self.strategies, self.activations)
        return self.measured if self.measured is not None else sum(parts) + self.images


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Time and memory of a phase.

    Attributes:
        seconds: of the whole phase, evaluations included.
        seconds_per_epoch: on average, its evaluation included; 0 in a phase without steps.
        extraction_seconds: of passes over the data that compute features, once a phase.
        evaluation_seconds: of one pass over ``val``.
        images_per_second: while training; None in a phase without steps.
        batches: how many were timed.
        batch_size: of them; smaller than the recipe's where that would have taken long, or not fitted.
        memory: where it goes.
    """

    seconds: float
    seconds_per_epoch: float
    extraction_seconds: float
    evaluation_seconds: float
    images_per_second: float | None
    batches: int
    batch_size: int
    memory: Memory


@dataclass(frozen=True, kw_only=True)
class PhaseView:
    """One phase.

    Attributes:
        phase: index, from 0.
        label: as on the command line.
        strategies: in calling order.
        epochs: as the recipe says, None where it names steps.
        steps_per_epoch, steps: optimiser steps.
        batch_size, accumulate: samples a micro-batch, micro-batches a step.
        rate, decay: peak learning rate and weight decay of the phase, before a strategy of the rates.
        warmup: share of the steps; warmup_steps: how many.
        schedule: after the warm-up.
        augment: level of the train view; train_view: in words.
        cached: whether features are computed once and the backbone is not run again.
        views: augmented views a training image of which that is done; 0: the exact one.
        parameters: ``total``, ``trainable`` (at any time of the phase), ``trainable_at_start``, ``injected``.
        blocks: of the backbone, then head and auxiliary modules; empty where the model could not be built.
        estimate: None where nothing was measured.
        not_measured: why not.
    """

    phase: int
    label: str
    strategies: tuple[StrategyView, ...]
    epochs: int | None
    steps_per_epoch: int
    steps: int
    batch_size: int
    accumulate: int
    rate: float
    decay: float
    warmup: float
    warmup_steps: int
    schedule: str
    augment: str
    train_view: str
    cached: bool
    views: int = 0
    parameters: dict[str, int] = field(default_factory=dict)
    blocks: tuple[BlockView, ...] = ()
    estimate: Estimate | None = None
    not_measured: str | None = None


@dataclass(frozen=True, kw_only=True)
class ColumnView:
    """A target column in ``train``.

    Attributes:
        name, kind: of the column.
        classes: class names in the order of the label map; counts: training samples of each.
        missing: training samples without a label.
        range: least, mean and greatest value of a regression column.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    counts: dict[str, int]
    missing: int
    range: tuple[float, float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a run would do.

    Attributes:
        recipe: the resolved recipe, as ``recipe.toml`` would hold it.
        backbone: ``name``, ``parameters``, ``license``, ``features`` (kind and width handed to the head).
        head: ``name`` and ``parameters``.
        weights: where they come from, in words.
        weights_cached: whether they are on this machine; None where there are none to get.
        data: ``columns``, ``splits``, ``ignored``, ``fingerprint``.
        device: where it was measured.
        transforms: ``eval`` in words, and ``input`` as numbers.
        compute: the compute path in words, or that it will be measured.
        phases: in order.
        seconds: of the whole run, the final evaluation included; None where a phase was not measured.
        peak_bytes: the largest peak of the phases; None likewise.
        available_bytes: free memory of the device, None where unknown.
        notes: lines a person should read.
        not_measured: what was not, and why, a line each.
    """

    recipe: dict[str, Any]
    backbone: dict[str, Any]
    head: dict[str, Any]
    weights: str
    weights_cached: bool | None
    data: dict[str, Any]
    device: str
    transforms: dict[str, Any]
    phases: tuple[PhaseView, ...]
    compute: str = ""
    seconds: float | None = None
    peak_bytes: int | None = None
    available_bytes: int | None = None
    notes: tuple[str, ...] = ()
    not_measured: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        value = {"format": FORMAT, **_plain(self), "rule": PHASE_RULE, "estimated": True}
        for phase in value["phases"]:
            if phase["estimate"] is not None:
                phase["estimate"]["memory"]["peak"] = Memory(**phase["estimate"]["memory"]).peak
        return value


def _plain(value: Any) -> Any:
    """Data classes as dicts, tuples as lists; times are rounded to milliseconds."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
