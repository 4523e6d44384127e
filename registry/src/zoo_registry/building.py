"""The signatures of factories and of what they build. Typing only: nothing here imports torch.

A backbone or head is an ordinary ``torch.nn.Module`` that has the methods below; nobody subclasses these protocols.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, device, dtype, nn

    from zoo_registry.inputs import Input
    from zoo_registry.specs import BackboneSpec, FormatSpec, HeadSpec, StrategySpec, TrackerSpec
    from zoo_registry.strategy import Strategy
    from zoo_registry.tracking import Tracker

TASKS = ("classification", "multilabel", "regression")
"""Kinds of target columns known to the app's own data sources and metrics; plugins may bring more (``segmentation``:
targets [B, H, W] integer, -1 where unlabelled; outputs [B, C, H, W]; per-sample loss the mean over labelled pixels).
"""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A target column.

    Attributes:
        name: as in the data; ``"label"`` for class folders.
        kind: ``classification`` (integer [B], -1 where missing, or soft [B, C], a row of NaN where missing),
            ``multilabel`` ([B, C] of 0/1, NaN where missing) or ``regression`` ([B] float, NaN where missing).
        classes: the label map, in order; empty for regression.
    """

    name: str
    kind: str = "classification"
    classes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Width of the output for this column: the number of classes, 1 for regression."""
        return len(self.classes) if self.classes else 1


@dataclass(frozen=True)
class Classifier:
    """A folded head: ``logits = features @ weight.T + bias`` with ``weight`` [K, D] and ``bias`` [K]."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What happened to the tensors of a weights file: names as in the backbone's ``state_dict``.

    Attributes:
        loaded: number of tensors taken over bit by bit.
        resized: taken over after interpolation (position embeddings at another image size, other input channels).
        initialised: in the model but not in the file; they are random.
        dropped: in the file but not in the model (the pretrained classifier).
    """

    loaded: int
    resized: tuple[str, ...] = ()
    initialised: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """The library's own published form of a backbone, with the classifier in it where one was given.

    Attributes:
        config: content of ``config.json``.
        tensors: content of ``model.safetensors``.
        classifier: tensor names of the classifier's weight and bias within ``tensors``; None where there is none.
        library: the library that loads it (``"timm"``), for the card.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    classifier: tuple[str, str] | None = None
    library: str | None = None


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A model that another library published, in the words of the registry. Nothing in it is code, and no path.

    Attributes:
        backbone: local name of the plugin's own backbone that the weights belong to.
        options: option -> value of that backbone, where the published model is not built as by default.
        input: what the model is fed: the evaluation transform that the repo states.
        kind: of the one target column that its classifier predicts.
        classes: how many outputs the classifier has; 0 where the repo holds none.
        labels: their names in order, all different; empty where the repo does not tell them and they were not needed.
        classifier: names of the classifier's weight and bias among the tensors; None where it is not one linear layer
            on the pooled features: such a repo is a backbone to start from, and cannot predict.
    """

    backbone: str
    options: Mapping[str, Any] = field(default_factory=dict)
    input: Input
    kind: str = "classification"
    classes: int = 0
    labels: tuple[str, ...] = ()
    classifier: tuple[str, str] | None = None


@runtime_checkable
class Backbone(Protocol):
    """A backbone module. Beyond ``forward`` it has a method per capability of its spec, see ``CAPABILITIES``.

    Optional, for inputs that the app does not know itself (it knows images):
    ``transform(input, train) -> callable``, where ``callable(sample, generator)`` turns a raw sample (the text, or the
    path of a file) into a tensor or a mapping of tensors, is picklable and runs in the workers;
    ``collate(samples) -> tensor or mapping`` makes a batch of them, for ``forward``;
    ``assets() -> {file name: bytes}`` for files that belong beside the weights (a tokenizer's).

    Optional, where the backbone is a shell around another library's model: ``published() -> module``, the module within
    whose names ``export`` writes; adapters are published under them. Without it that is the backbone itself.

    Modules that ``forward`` never uses (a text tower behind ``encode_text``) are no parameters of the backbone: a
    trainable tensor that never gets a gradient fails a run.
    """

    load_report: LoadReport | None

    def forward(self, x: Tensor | Mapping[str, Tensor]) -> Any:
        """Features of the kind that the factory was asked for: pooled [B, D], map [B, D, H, W], tokens [B, N, D]."""
        ...

    def blocks(self) -> Mapping[str, Sequence[str]]:
        """Ordered block name -> parameter-name prefixes, stem first; together they cover every parameter."""
        ...

    def export(self, classifier: Classifier | None, labels: Sequence[str], input: Input) -> Exported:
        """The library's own form; ``classifier`` is only given where the spec has the capability ``classifier``.

        ``input`` is the evaluation transform really used; ``labels`` are the class names in order.
        """
        ...


class Head(Protocol):
    """A head module.

    Optional methods: ``fit(features, targets)`` (closed form, no gradient), ``fold() -> Classifier | None`` (as one
    linear layer), ``traceable() -> module`` (the same outputs with nothing decided by values or by the size of the
    batch, for ``torch.export``, where ``forward`` decides so), ``initialise(backbone, columns)`` (called once after
    both were built; a zero-shot head asks the backbone's ``encode_text`` here, Co-Tuning its ``native_head``),
    ``prepare_targets(targets)`` (called once before the first phase with ``run.targets``; regression takes mean and
    deviation from them), ``metrics(outputs, targets) -> {column: {name: [B]}}`` (what this head is judged by beyond its
    column's kind, per sample, NaN where the label is missing; evaluation gives the means). Optional attributes:
    ``threshold``, the probability from which on a multilabel head predicts a label, 0.5 without it; ``abstains``, True
    where ``decode`` may refuse a sample; ``data_sized``, names in the state dict of tensors whose first dimension is
    the number of training samples: 0 until ``fit``, and
    ``load_state_dict`` takes any number.
    """

    def forward(self, features: Any) -> dict[str, Tensor]:
        """``{column: output}``: logits [B, C], or values [B] for regression."""
        ...

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``{column: [B]}``, per sample and not reduced, NaN where the label is missing.

        Classification targets are integer [B] (-1 where missing) or soft [B, C] (a row of NaN where missing).
        ``outputs`` may be of some of the columns only.
        """
        ...

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``{column: scores}``: probabilities [B, C] for classes, values [B] for regression.

        Rows of a classification column add up to 1, or are all zero: there the head abstains. Such a sample has no
        predicted class and counts as an error.
        """
        ...


class BackboneFactory(Protocol):
    """``factory`` of a :class:`~zoo_registry.specs.BackboneSpec`."""

    def __call__(
        self,
        spec: BackboneSpec,
        options: Any,
        *,
        input: Input,
        features: str,
        weights: Path | None,
        device: device | str,
        dtype: dtype | None,
    ) -> nn.Module:
        """Build the module, with ``weights`` (a verified local safetensors file) loaded, or random where None.

        ``input`` is the spec's with the user's image size and channels put in; ``features`` is the kind of features
        that ``forward`` must return. The weights file may be one that ``export`` made. Where ``spec.weights`` names
        assets, ``assets: Mapping[str, Path]`` (file name -> local file) is passed as well.
        """
        ...


class HeadFactory(Protocol):
    """``factory`` of a :class:`~zoo_registry.specs.HeadSpec`."""

    def __call__(self, spec: HeadSpec, options: Any, *, width: int, targets: tuple[Column, ...]) -> nn.Module:
        """Build the head for these target columns, on features of ``width`` (for a pyramid a tuple of widths).

        Which kind of features it will get follows from ``spec.features`` and the backbone: the first that both know.
        """
        ...


class StrategyFactory(Protocol):
    """``factory`` of a :class:`~zoo_registry.specs.StrategySpec`."""

    def __call__(self, spec: StrategySpec, options: Any) -> Strategy:
        """Build the strategy of one phase."""
        ...


class TrackerFactory(Protocol):
    """``factory`` of a :class:`~zoo_registry.specs.TrackerSpec`."""

    def __call__(self, spec: TrackerSpec, options: Any) -> Tracker:
        """Build the tracker of one run.

        Raises:
            PluginError: what it needs is not installed, or it has no access; the run is refused before it begins.
        """
        ...


class FormatReader(Protocol):
    """``factory`` of a :class:`~zoo_registry.specs.FormatSpec`."""

    def __call__(
        self, spec: FormatSpec, options: Any, *, files: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None
    ) -> Foreign | None:
        """What the files of a repo say, or None where it is not of this format.

        ``files`` are those of ``spec.files`` that are there, parsed: strangers wrote them, so every value that is taken
        over is checked, and none may become code, a path or a switch. ``shapes`` are those of the tensors; None where
        they are not fetched yet: then ``labels`` may stay empty, and torch is not to be imported.

        Raises:
            IntegrityError: it is of this format, and says what cannot be.
            PluginError: it is of this format, and the installed library does not know the model.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What a strategy changed, small enough to publish instead of the whole model.

    Attributes:
        method: name of the method, e.g. ``"lora"``.
        tensors: name -> tensor in the method's own layout.
        config: JSON values needed to apply it again.
    """

    method: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
