"""The specs that plugins return from their hooks: plain frozen data, cheap to build, free of torch.

A spec names its ``factory`` as ``"package.module:callable"``; it is imported on first build, never at listing.
:mod:`zoo_registry.building` has the signatures of the factories and of what they return.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo_registry.inputs import ImageInput, Input
from zoo_registry.options import NoOptions

CONTRACT_VERSION = 1
"""The contract this registry speaks. A plugin built for a newer one is refused and named."""

OLDEST_CONTRACT = 1
"""The oldest contract whose plugins still work."""

KINDS = ("backbone", "head", "strategy", "recipe", "tracker", "format")

FEATURE_KINDS = ("pooled", "map", "tokens", "pyramid")
"""``pooled``: [B, D]; ``map``: [B, D, H, W]; ``tokens``: [B, N, D], all-zero vectors where a sequence is padded;
``pyramid``: a list of maps [B, D_i, H_i, W_i], finest first (its width is a tuple, one a level)."""

ROLES = ("tuning", "rates", "augment", "sampling", "batch", "objective", "penalty", "averaging")
"""The roles of strategies in calling order."""

CAPABILITIES = {
    "blocks": "blocks() -> ordered name -> parameter-name prefixes, stem first, covering every parameter",
    "linear_layers": "linear_layers() -> names of linear layers reached through their own forward",
    "intermediates": "intermediates(x) -> one map per stage, finest first",
    "insert_tokens": "insert_tokens(block, tokens [N, D] or None): extra tokens put in front of this block's sequence "
    "and taken off behind it; live, so that gradients reach them, but not registered: they stay the caller's. None "
    "takes them out again; a UsageError where the block has no sequence (deep VPT)",
    "native_head": "native_head() -> a fresh copy of the pretrained classifier of the pooled features (Co-Tuning, LwF)",
    "classifier": "the native classifier is one Linear or 1x1 convolution, so export() can carry a folded head",
    "encode_text": "encode_text(texts) -> text features in the space of the pooled features (zero-shot heads)",
    "image_size": "accepts another image size than the spec's",
    "in_chans": "accepts another number of input channels than the spec's",
}

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_FACTORY = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")


@dataclass(frozen=True, kw_only=True)
class PluginInfo:
    """What a plugin says of itself. ``contract`` is the contract version it was built for."""

    summary: str
    contract: int = CONTRACT_VERSION
    url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A measured number with its source, e.g. ``imagenet_top1 = 80.4`` from ``results-imagenet.csv``."""

    name: str
    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where pretrained weights lie: a file of a hub repo, a resource of the package, or nowhere that is safe.

    Attributes:
        repo, file, revision: a safetensors file in a hub repo; the app pins the revision to one commit.
        package, resource, sha256: a safetensors file inside an installed package, with its hash.
        assets: further files of the same repo or package that the factory is handed (a tokenizer's).
        unsafe: why no safe file exists (``"only a pickle at <url>"``); such weights are listed, never loaded.
        license: SPDX-like licence id of the weights, None where unknown; ``license_source`` says who says so.
        size: bytes, where known.
    """

    repo: str | None = None
    file: str = "model.safetensors"
    revision: str | None = None
    package: str | None = None
    resource: str | None = None
    sha256: str | None = None
    size: int | None = None
    assets: tuple[str, ...] = ()
    unsafe: str | None = None
    license: str | None = None
    license_source: str | None = None

    @property
    def where(self) -> str:
        """``"hub"``, ``"package"`` or ``"none"``."""
        if self.unsafe is not None:
            return "none"
        return "hub" if self.repo else "package" if self.resource else "none"


@dataclass(frozen=True, kw_only=True)
class Paper:
    """The source of a method."""

    title: str
    year: int
    link: str


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A stream of data that a strategy reads beside ``train``.

    Attributes:
        name: ``"unlabelled"``, ``"source"``...; streams of one name are merged.
        views: the views wanted of each sample, of ``eval train weak strong``.
        ratio: samples of this stream for one of ``train``.
    """

    name: str
    views: tuple[str, ...] = ("train",)
    ratio: int = 1


@dataclass(frozen=True, kw_only=True)
class NamedSpec:
    """What everything that a plugin offers has.

    Attributes:
        name: local part, unique in its namespace and kind.
        summary: one line.
        aliases: further local names; they work like ``name`` and are never stored.
        deprecated: why not to use it any more and what instead, or None.
    """

    name: str
    summary: str
    aliases: tuple[str, ...] = ()
    deprecated: str | None = None

    def __post_init__(self) -> None:
        for name in (self.name, *self.aliases):
            if not _NAME.match(name):
                raise ValueError(f"{name!r} is no name (letters, digits, '.', '_', '-')")
        if not self.summary or "\n" in self.summary:
            raise ValueError(f"{self.name}: the summary must be one line")


@dataclass(frozen=True, kw_only=True)
class Spec(NamedSpec):
    """What all specs of things that are built share.

    Attributes:
        factory: ``"package.module:callable"``, imported on first build.
        options: a frozen dataclass, every field defaulted, help in the field metadata; or a reference to it
            (``"package.module:Class"``), which keeps listing from building it.
        extra: data of the plugin's own, handed back to its factory with the spec; the app never reads it.
        example: option values to try the spec with, where the defaults alone do not do (a teacher's name).
        known_failures: check of the conformance kit -> why it cannot pass.
    """

    factory: str
    options: type | str = NoOptions
    extra: Mapping[str, Any] = field(default_factory=dict)
    example: Mapping[str, Any] = field(default_factory=dict)
    known_failures: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        lazy = isinstance(self.options, str) and _FACTORY.match(self.options)
        if not lazy and not hasattr(self.options, "__dataclass_fields__"):
            raise ValueError(f"{self.name}: options {self.options!r} is not a dataclass")
        if not _FACTORY.match(self.factory):
            raise ValueError(f"{self.name}: factory {self.factory!r} is not 'package.module:callable'")


@dataclass(frozen=True, kw_only=True)
class BackboneSpec(Spec):
    """A pretrained (or not) feature extractor.

    Attributes:
        input: what it is fed; no image is assumed.
        features: kind -> width, see :data:`FEATURE_KINDS`; they differ (mobilenetv3_small: 1024 pooled, 576 as a map).
            A pyramid's width is a tuple, finest level first.
        weights: where the pretrained weights lie, None where there are none.
        parameters: number of parameters of the backbone without a classifier, None where unknown.
        family: architectures that belong together, e.g. ``"resnet"``.
        recommended: a good first choice; higher is better, 0 is no recommendation.
        facts: accuracy and speed, each with its source.
        capabilities: names of :data:`CAPABILITIES`.
    """

    input: Input = field(default_factory=ImageInput)
    features: Mapping[str, Any] = field(default_factory=dict)
    weights: Weights | None = None
    parameters: int | None = None
    family: str = ""
    recommended: int = 0
    facts: tuple[Fact, ...] = ()
    capabilities: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [k for k in self.features if k not in FEATURE_KINDS]
        unknown += [c for c in self.capabilities if c not in CAPABILITIES]
        if unknown or not self.features:
            raise ValueError(f"{self.name}: unknown feature kind or capability {unknown}, or no features at all")

    def fact(self, name: str) -> float | None:
        """The value of the fact ``name``, None where it is not known."""
        return next((f.value for f in self.facts if f.name == name), None)


@dataclass(frozen=True, kw_only=True)
class HeadSpec(Spec):
    """What turns features into predictions.

    Attributes:
        tasks: the kinds of target columns it serves: ``classification``, ``multilabel``, ``regression``...
        features: feature kinds accepted, best first.
        needs: capabilities of the backbone without which it cannot be built (``encode_text``, ``native_head``).
        gradient: False where gradients cannot train it (prototype, ridge, k-NN: ``fit`` does; zero-shot: nothing
            does), so a phase with steps needs something else that learns.
        paper: its source.
    """

    tasks: tuple[str, ...] = ("classification",)
    features: tuple[str, ...] = ("pooled",)
    needs: frozenset[str] = frozenset()
    gradient: bool = True
    paper: Paper | None = None


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Good defaults of a tuning strategy, used where the recipe is silent.

    Attributes:
        rate: peak learning rate of AdamW for a backbone of up to a million parameters; where the backbone learns, the
            application takes a smaller one for larger backbones.
        decay: weight decay.
        warmup: share of the phase's steps spent warming up.
        epochs: epochs of a phase that names none.
    """

    rate: float | None = None
    decay: float | None = None
    warmup: float | None = None
    epochs: int | None = None


@dataclass(frozen=True, kw_only=True)
class StrategySpec(Spec):
    """A way to learn, in one of :data:`ROLES`.

    Attributes:
        role: tuning (what learns), rates, augment, sampling, batch, objective, penalty, averaging.
        streams: data read beside ``train``.
        needs: capabilities of the backbone.
        head_needs: methods that the head must have (``fit``).
        touches: of ``input backbone features loss``; features may be cached when nothing touches input or backbone.
        gradient: False for a phase of no steps.
        merges: the result is a plain model; False: it stays a delta, see ``Strategy.delta`` and ``Strategy.apply``.
        defaults: good rate, decay, warm-up, epochs.
        paper: its source.
    """

    role: str = "tuning"
    streams: tuple[Stream, ...] = ()
    needs: frozenset[str] = frozenset()
    head_needs: frozenset[str] = frozenset()
    touches: frozenset[str] = frozenset()
    gradient: bool = True
    merges: bool = True
    defaults: Defaults = field(default_factory=Defaults)
    paper: Paper | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.role not in ROLES:
            raise ValueError(f"{self.name}: role {self.role!r} is not one of {', '.join(ROLES)}")
        unknown = self.touches - {"input", "backbone", "features", "loss"}
        if unknown:
            raise ValueError(f"{self.name}: touches {sorted(unknown)} is not of input, backbone, features, loss")


@dataclass(frozen=True, kw_only=True)
class RecipePhase:
    """One phase of a :class:`RecipeSpec`; what is None follows the strategies' defaults and the size of the data.

    Attributes:
        strategies: full names, in any order.
        epochs: passes over ``train``.
        rate, decay, warmup: as in :class:`Defaults`.
        augment: level of the train view (``none light medium strong``).
        options: full name of a strategy -> option -> value.
    """

    strategies: tuple[str, ...]
    epochs: int | None = None
    rate: float | None = None
    decay: float | None = None
    warmup: float | None = None
    augment: str | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RecipeSpec(NamedSpec):
    """A recipe with a name: phases of composed strategies. It is data, nothing is built from it.

    Attributes:
        phases: in order.
        head: full name of the head that goes with it, taken where the user names none.
        paper: its source.
    """

    phases: tuple[RecipePhase, ...]
    head: str | None = None
    paper: Paper | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.phases or not all(phase.strategies for phase in self.phases):
            raise ValueError(f"{self.name}: a recipe has at least one phase, and a phase at least one strategy")


@dataclass(frozen=True, kw_only=True)
class TrackerSpec(Spec):
    """What is told of a run while it goes on (TensorBoard, a web service), and never decides anything."""


@dataclass(frozen=True, kw_only=True)
class FormatSpec(Spec):
    """How another library publishes models, so that its repos can be read: see ``FormatReader``.

    Attributes:
        files: the JSON files that the reader wants to see; a repo that lacks the first is not of this format.
        tensors: the safetensors file with the weights.
    """

    files: tuple[str, ...] = ("config.json",)
    tensors: str = "model.safetensors"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.files or not all(name.endswith(".json") for name in self.files):
            raise ValueError(f"{self.name}: files must be names of JSON files, at least one")
        if not self.tensors.endswith(".safetensors"):
            raise ValueError(f"{self.name}: tensors must be the name of a safetensors file")


SPEC_TYPES: dict[str, type[NamedSpec]] = {
    "backbone": BackboneSpec,
    "head": HeadSpec,
    "strategy": StrategySpec,
    "recipe": RecipeSpec,
    "tracker": TrackerSpec,
    "format": FormatSpec,
}
