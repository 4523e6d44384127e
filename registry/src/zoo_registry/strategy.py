"""The ``Strategy`` base class: free of torch, every method does nothing, an author overrides only what is meant.

The training loop of the app calls the methods at fixed points::

    phase  prepare* -> parameter_groups -> begin_epoch* per epoch
    step   alter* -> objective or the supervised loss -> penalty* -> backward
           -> before_step* -> optimiser -> after_step*
    end    evaluation_weights -> delta -> finish*

``*`` in the order of :data:`zoo_registry.specs.ROLES`. At most one tuning, rates, sampling, objective and owner of
evaluation weights stands in a phase, see :func:`compose`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict

from zoo_registry.errors import UsageError
from zoo_registry.specs import ROLES, StrategySpec, Stream

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from zoo_registry.building import Column, Delta
    from zoo_registry.inputs import Input

Losses = dict[str, Any]
"""Name -> scalar tensor; the loop adds them up, records each under its name and refuses what is not finite."""

VIEWS = ("eval", "train", "weak", "strong")

EXCLUSIVE_ROLES = ("tuning", "rates", "sampling", "objective")


class ParameterGroup(TypedDict):
    """Parameters that share a peak learning rate.

    ``decay`` is their weight decay; where it is left out the phase's own is used, on matrices and kernels alone.
    """

    params: list[Any]
    rate: float
    decay: NotRequired[float]


@dataclass(eq=False)
class Pass:
    """One forward pass, computed once a step and shared by all who ask.

    Attributes:
        features: of the backbone, in the head's kind.
        outputs: ``{column: logits [B, C] or values [B]}``.
        taps: name of a tapped backbone submodule -> its output.
    """

    features: Any
    outputs: dict[str, Any]
    taps: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Batch:
    """A batch of one stream.

    Attributes:
        views: view name -> input on the device, [B, C, H, W] for images.
        targets: column -> targets; None for unlabelled streams.
        weights: per-sample weights [B], or None.
        mix: ``[(targets, per-sample weight [B]), ...]``: a convex combination of targets, or None.
        ids: indices of the samples in the stream.
        features: cached features in place of views, or None.
    """

    views: dict[str, Any]
    targets: dict[str, Any] | None = None
    weights: Any = None
    mix: list[tuple[dict[str, Any], Any]] | None = None
    ids: Sequence[int] = ()
    features: Any = None
    passes: dict[Any, Pass] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def parts(self) -> list[tuple[dict[str, Any], Any]]:
        """``[(targets, per-sample weight [B] or None), ...]`` whose losses add up to the batch's, mixed or not."""
        if self.mix is None:
            return [(self.targets or {}, self.weights)]
        return [(targets, w if self.weights is None else w * self.weights) for targets, w in self.mix]


class TransferModel(Protocol):
    """Backbone + head, as strategies see it (a ``torch.nn.Module`` of the app)."""

    backbone: nn.Module
    head: nn.Module
    auxiliary: nn.ModuleDict
    """Extra modules: trained and checkpointed, never published; dropped at the end of the phase."""
    columns: tuple[Column, ...]
    input: Input | None
    """What the backbone is fed: how the views were normalised, and their size; None where nobody knows."""

    def __call__(self, batch: Batch, view: str | None = None) -> Pass:
        """The pass of one view (the batch's first by default), remembered on the batch."""
        ...

    def supervised(self, batch: Batch) -> Tensor:
        """The head's loss on the batch: mixed, weighed, averaged over the labels present."""
        ...

    def loss(self, outputs: Mapping[str, Any], targets: Mapping[str, Any], weights: Any = None) -> Tensor:
        """The head's per-sample losses, weighed and averaged over the labels present."""
        ...

    def average(self, losses: Mapping[str, Any], weights: Any = None) -> Tensor:
        """Scalar from per-sample losses ``{column: [B], NaN where missing}``, as :meth:`loss` makes it."""
        ...

    def blocks(self) -> Mapping[str, tuple[str, ...]]:
        """Ordered block name -> parameter-name prefixes relative to the model (``backbone.`` in front)."""
        ...

    def freeze(self, blocks: Iterable[str] | None = None) -> None:
        """Freeze the named blocks of the backbone (all by default): parameters, and BatchNorm statistics too."""
        ...

    def unfreeze(self, blocks: Iterable[str] | None = None) -> None:
        """The opposite of :meth:`freeze`."""
        ...


class Run(Protocol):
    """The state of training that strategies may read."""

    seed: int
    step: int
    epoch: int
    total_steps: int
    """Steps of the phase, known from ``prepare`` on."""
    steps_per_epoch: int
    device: Any
    columns: tuple[Column, ...]
    targets: Mapping[str, Tensor]
    class_counts: Mapping[str, Tensor]
    weights: Tensor | None
    """Weights [N] of the training samples as the data brings them, on the CPU; None where it brings none."""
    strategies: tuple[str, ...]
    """Full names of the phase's strategies, for those that must agree with another (mixup and cutmix)."""
    base: Mapping[str, Tensor]
    """The pretrained weights, by name in the model's state dict."""
    start: Mapping[str, Tensor]
    """The weights at the phase's start; kept in the checkpoint."""

    def generator(self, name: str) -> Generator:
        """A CPU generator keyed by (seed, phase, step, micro-batch, name)."""
        ...

    def reference(self) -> TransferModel:
        """A frozen copy of the model with the base weights, in evaluation mode."""
        ...

    def assemble(self, name: str) -> TransferModel:
        """Another model of the zoo (a teacher), pinned in the recipe."""
        ...

    def extract(self, model: TransferModel) -> tuple[Tensor, dict[str, Tensor]]:
        """Features of all ``train`` samples under the evaluation view, and their targets, in data order."""
        ...

    def recalibrate(self, model: TransferModel) -> None:
        """Recompute BatchNorm statistics on ``train``, as is needed after averaging weights."""
        ...

    def score(self, model: TransferModel, state: Mapping[str, Tensor] | None = None) -> float:
        """The main validation metric (higher is better) of the model, or of the model with ``state`` put in."""
        ...

    def backward(self) -> Losses:
        """In ``before_step``: compute the step's gradients again on the same batches, with the same randomness and
        the weights as they are now; they replace those there were (SAM).
        """
        ...


class Strategy:
    """Base of all strategies. Override what is meant; the rest does nothing."""

    taps: tuple[str, ...] = ()
    """Names of backbone submodules whose outputs are wanted in ``Pass.taps``."""

    result_is_average: bool = False
    """Role averaging: the phase ends with the evaluation weights as they are at its end, whichever epoch was best."""

    def prepare(self, model: TransferModel, run: Run) -> None:
        """At the phase's start: freeze, inject, add auxiliary modules."""

    def explain(self, model: TransferModel, run: Run) -> tuple[str, ...]:
        """After :meth:`prepare`, for a plan: what a person should know beyond which parts learn, a line each.

        The anchor of a penalty, a ratio, a schedule: ``"pulls the backbone to its pretrained weights, alpha 0.01"``.
        """
        return ()

    def parameter_groups(self, model: TransferModel, rate: float) -> list[ParameterGroup]:
        """Role rates: every parameter of backbone and head that may ever train in the phase, frozen ones included."""
        raise NotImplementedError

    def augment(self, transform: Callable[..., Any], stream: str, view: str) -> Callable[..., Any]:
        """Role augment: a sample transform ``(sample, generator) -> sample`` around ``transform``; runs in workers.

        The sample is the input alone (an image as uint8 [C, H, W]), or the pair ``(input, targets)`` where a target
        lies in the input's own space (a segmentation map), so that both are moved together. The generator is keyed by
        the sample's draw.
        """
        return transform

    def sample_weights(self, targets: Mapping[str, Tensor], run: Run) -> Tensor:
        """Role sampling: non-negative weights [N] with which samples are drawn, with replacement."""
        raise NotImplementedError

    def alter(self, batch: Batch, run: Run) -> Batch:
        """Role batch: change a ``train`` batch before the objective (mixup, cutmix)."""
        return batch

    def objective(self, model: TransferModel, batches: Mapping[str, Batch], run: Run) -> Losses:
        """Role objective: losses in place of the supervised one."""
        raise NotImplementedError

    def penalty(self, model: TransferModel, batches: Mapping[str, Batch], run: Run) -> Losses:
        """Terms added to the loss."""
        return {}

    def begin_epoch(self, model: TransferModel, run: Run) -> None:
        """At each epoch's start, and again on resume: depend on ``run.epoch`` and saved state alone."""

    def before_step(self, model: TransferModel, run: Run) -> None:
        """Gradients are complete (unscaled, not yet clipped)."""

    def after_step(self, model: TransferModel, run: Run) -> None:
        """Weights have moved."""

    def evaluation_weights(self, model: TransferModel) -> Mapping[str, Tensor] | None:
        """Role averaging: the weights that validation and the best checkpoint use."""
        return None

    def delta(self, model: TransferModel) -> Delta | None:
        """Just before :meth:`finish`: what changed, where the method has a small form of it."""
        return None

    def apply(self, model: TransferModel, delta: Delta) -> None:
        """Put a published delta on a plain model; needed where the spec says ``merges=False`` (deep VPT).

        Afterwards the model gives the outputs that the trained one gave.
        """
        raise NotImplementedError

    def finish(self, model: TransferModel, run: Run) -> None:
        """At the phase's end: merge, average, fit; the model is plain afterwards."""

    def findings(self) -> Mapping[str, float | str]:
        """After :meth:`finish`, for the phase's row of the log: what the method chose or measured."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Flat tensors and scalars, whatever an exact resume needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The opposite of :meth:`state_dict`; refuses state that nobody saved."""
        if state:
            raise ValueError(f"{type(self).__name__} has no state, got {sorted(state)[:3]}")


def overrides(strategy: Strategy, method: str) -> bool:
    """Whether the strategy has its own ``method``."""
    return getattr(type(strategy), method) is not getattr(Strategy, method)


def order_problems(specs: Sequence[StrategySpec]) -> list[str]:
    """Why these strategies cannot stand in one phase; empty where they can."""
    problems = []
    for role in EXCLUSIVE_ROLES:
        same = [s.name for s in specs if s.role == role]
        if len(same) > 1:
            problems.append(f"a phase has at most one {role} strategy, got {' and '.join(same)}")
    twice = sorted({s.name for s in specs if sum(o is s for o in specs) > 1 and s.role not in EXCLUSIVE_ROLES})
    problems += [f"{name} stands twice in a phase" for name in twice]
    return problems


def compose(parts: Iterable[tuple[StrategySpec, Strategy]]) -> list[tuple[StrategySpec, Strategy]]:
    """The parts of a phase in calling order: by role, then as written.

    The owner of evaluation weights goes before others of its role: they work on what it averaged (EMA, then WiSE-FT).

    Raises:
        UsageError: two parts claim what only one may own.
    """
    ordered = sorted(parts, key=lambda part: (ROLES.index(part[0].role), not overrides(part[1], "evaluation_weights")))
    problems = order_problems([spec for spec, _ in ordered])
    for method in ("parameter_groups", "sample_weights", "objective", "evaluation_weights"):
        owners = [spec.name for spec, strategy in ordered if overrides(strategy, method)]
        if len(owners) > 1:
            problems.append(f"{' and '.join(owners)} both bring {method.replace('_', ' ')}")
    if problems:
        raise UsageError("; ".join(dict.fromkeys(problems)), hint="put them in different phases, separated by ','")
    return ordered


def cacheable(specs: Iterable[StrategySpec]) -> bool:
    """Whether features may be computed once: nothing touches input or backbone, and only ``train`` is read."""
    return not any(s.touches & {"input", "backbone"} or {x.name for x in s.streams} - {"train"} for s in specs)


def merge_streams(specs: Iterable[StrategySpec]) -> dict[str, Stream]:
    """All streams of a phase by name, ``train`` first; same-named streams are merged (views joined, larger ratio)."""
    merged = {"train": Stream(name="train")}
    for stream in (s for spec in specs for s in spec.streams):
        known = merged.get(stream.name)
        if known is None:
            merged[stream.name] = stream
        else:
            views = tuple(dict.fromkeys(known.views + stream.views))
            merged[stream.name] = Stream(name=stream.name, views=views, ratio=max(known.ratio, stream.ratio))
    return merged
