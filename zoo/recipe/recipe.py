"""The recipe's data classes: backbone, head, phases, data and training options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from zoo_registry import option


@dataclass(frozen=True, kw_only=True)
class Component:
    """A spec by name with the options it was given.

    Attributes:
        name: full name once the recipe is resolved.
        options: option -> value; only those that were set, until resolved.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PhaseRecipe:
    """One phase: composed strategies and how long.

    Attributes:
        strategies: in the order written.
        epochs: passes over ``train``; None until resolved.
        steps: optimiser steps in place of epochs.
        rate, decay, warmup: peak learning rate, weight decay, share of the steps spent warming up; None until resolved.
        augment: the level of the train view (``none light medium strong``); None until resolved.
    """

    strategies: tuple[Component, ...]
    epochs: int | None = None
    steps: int | None = None
    rate: float | None = None
    decay: float | None = None
    warmup: float | None = None
    augment: str | None = None

    def label(self) -> str:
        """As on the command line: ``linear+l2-sp:3``, short names."""
        names = "+".join(c.name.rpartition("/")[2] for c in self.strategies)
        if self.steps is not None:
            return f"{names}:{self.steps}s"
        return names if self.epochs is None else f"{names}:{self.epochs}"


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How the data is read."""

    image_column: str | None = option(None, help="column of a table that holds the image paths")
    label_columns: tuple[str, ...] = option((), help="columns of a table that hold the targets")
    split_column: str | None = option(None, help="column of a table that says train, val or test")
    weight_column: str | None = option(None, help="column of a table with sample weights, for strategies that use it")
    val_fraction: float = option(0.2, help="share of train drawn as val where none is given", low=0.01, high=0.9)
    task: str | None = option(None, help="kind of the targets", choices=("classification", "multilabel", "regression"))
    max_bad: float = option(0.01, help="unreadable images allowed: a share below 1, or a count from 1 on", low=0.0)
    strict: bool = option(False, help="refuse unreadable images, and images of train that stand in another split too")
    labels_per_class: int | None = option(None, help="keep so many training samples a class", low=1)
    follow_links: bool = option(False, help="follow symbolic links that lead out of the folder")

    @property
    def bad_allowed(self) -> float:
        """Unreadable images allowed, a share or a count."""
        return 0.0 if self.strict else self.max_bad


AUGMENTS = ("auto", "none", "light", "medium", "strong")
AUTO = "auto"
SWITCH = (AUTO, True, False)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How the model is trained; phases and strategies bring their own defaults where a value here is None."""

    batch_size: int = option(64, help="samples a micro-batch", low=1)
    accumulate: int = option(
        1, help="micro-batches whose gradients make one step", low=1, also=("gradient_accumulation_steps", "grad_accum")
    )
    lr: float | None = option(
        None, help="peak learning rate of AdamW; each strategy's own by default", low=1e-12, also=("learning_rate",)
    )
    weight_decay: float | None = option(
        None, help="weight decay of AdamW; each strategy's own by default", low=0, also=("wd",)
    )
    warmup: float | None = option(None, help="share of a phase's steps spent warming up", low=0, high=0.9)
    schedule: str = option("cosine", help="learning rate after the warm-up", choices=("cosine", "constant", "linear"))
    clip: float = option(1.0, help="largest gradient norm; 0 does not clip", low=0, also=("max_grad_norm", "grad_clip"))
    augment: str = option("auto", help="strength of the train view", choices=AUGMENTS)
    epochs: int | None = option(None, help="epochs of the last phase that names none", low=1)
    patience: int = option(0, help="epochs without a better val metric that end a phase early; 0 never", low=0)
    keep: str = option("best", help="weights a phase ends with", choices=("best", "last"))
    evaluate_every: int = option(1, help="epochs between evaluations on val", low=1)
    checkpoint_every: float = option(120.0, help="seconds between checkpoints within an epoch", low=0)
    log_every: int = option(0, help="steps between rows of metrics.jsonl within an epoch; 0 none", low=0)
    workers: int | str = option(
        AUTO, help="processes that decode images; auto measures", low=0, high=256, also=("num_workers",)
    )
    decode: str = option(
        "scaled", help="large images in training: decoded as small as the view allows", choices=("scaled", "exact")
    )
    cache: str = option(
        AUTO, help="where decoded images are kept; auto: where they fit", choices=(AUTO, "memory", "disk", "off")
    )
    cache_gb: float = option(0.0, help="GB that they may take; 0 a quarter of what is free", low=0)
    features: str = option(
        AUTO,
        help="where features of a backbone at rest are kept; auto: memory, and the disk where computing took long",
        choices=(AUTO, "off", "memory", "disk"),
    )
    features_gb: float = option(5.0, help="GB on the disk that features of all runs may take; 0 none", low=0)
    features_precision: str = option(
        "float32", help="of those a head is trained on; final metrics are float32", choices=("float32", "bf16")
    )
    views: int = option(0, help="augmented views a training image of a backbone at rest; 0 the exact one", low=0)
    threads: int = option(0, help="torch CPU threads; 0 leaves torch's choice", low=0)
    deterministic: bool = option(True, help="deterministic kernels, so that two runs agree bit by bit")
    precision: str = option(
        AUTO, help="of the backbone's training passes; auto measures", choices=(AUTO, "float32", "tf32", "bf16")
    )
    memory_format: str = option(AUTO, help="of images and kernels", choices=(AUTO, "contiguous", "channels_last"))
    fused: bool | str = option(AUTO, help="AdamW as one kernel", choices=SWITCH)
    compile: bool | str = option(AUTO, help="run the backbone through torch.compile", choices=SWITCH)

    def __post_init__(self) -> None:
        if isinstance(self.workers, str) and self.workers != AUTO:
            raise ValueError(f"workers: {self.workers!r} is not an integer or {AUTO!r}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run's result.

    Attributes:
        backbone, head: by name, with options.
        phases: in order.
        pretrained: False starts from random weights.
        image_size, in_chans: in place of the backbone's own.
        seed: of everything random.
        source: the data as given on the command line; stays in the run folder and is never published.
        weights: where the base weights came from (repo, revision, sha256), once resolved; with ``given`` in it they
            were chosen in place of the backbone's own, see :mod:`zoo.origins`.
        input: what those were trained with, where it may differ from the backbone's own input: values of its class.
        teachers: name of a model that a strategy asked for -> sha256 of its manifest, and its revision on a hub.
    """

    backbone: Component
    head: Component
    phases: tuple[PhaseRecipe, ...]
    pretrained: bool = True
    image_size: int | None = None
    in_chans: int | None = None
    seed: int = 0
    source: str | None = None
    data: DataOptions = field(default_factory=DataOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    weights: dict[str, Any] | None = None
    input: dict[str, Any] | None = None
    teachers: dict[str, dict[str, str]] = field(default_factory=dict)

    def label(self) -> str:
        """The strategy expression, as on the command line."""
        return ",".join(phase.label() for phase in self.phases)
