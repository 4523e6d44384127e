"""Checks of a head, on drawn features that are easy to tell apart."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_registry.building import TASKS, Column
from zoo_registry.conformance.run import evaluating
from zoo_registry.conformance.spec_checks import require
from zoo_registry.conformance.tiny import CAPABILITIES, FEATURES, TinyBackbone
from zoo_registry.errors import ZooError
from zoo_registry.options import parse_options
from zoo_registry.registry import Entry
from zoo_registry.specs import HeadSpec

COUNT = 24
CLASSES = ("first", "second", "third")

HeadEntry = Entry[HeadSpec]


@dataclass(frozen=True)
class Problem:
    """Features of one kind and targets of one task."""

    kind: str
    column: Column
    features: Any
    targets: Tensor


def applicable(entry: HeadEntry) -> Iterator[Callable[[HeadEntry], None]]:
    """The checks that apply; a head of tasks that the kit does not know is checked by its spec alone."""
    spec = entry.spec
    if not set(spec.tasks) & set(TASKS) or not spec.needs <= CAPABILITIES:
        return
    yield outputs_have_declared_size
    yield loss_is_per_sample
    yield missing_labels_are_nan
    if "classification" in spec.tasks:
        yield soft_targets_accepted
    yield decode_is_in_range
    yield fold_equals_forward
    yield traceable_form_equals_forward
    yield fit_needs_no_gradient
    if spec.gradient:
        yield gradients_reduce_the_loss
    yield several_columns_work_or_are_refused
    yield state_dict_survives_safetensors


def problems(entry: HeadEntry) -> Iterator[Problem]:
    """One problem for each task that the kit knows and each kind of features."""
    for task in (task for task in entry.spec.tasks if task in TASKS):
        for kind in entry.spec.features:
            yield make_problem(task, kind)


def make_problem(task: str, kind: str) -> Problem:
    """24 samples; the features of a class lie around its centre."""
    draw = torch.Generator().manual_seed(11)
    labels = torch.arange(COUNT) % len(CLASSES)
    column = Column(name="label", kind=task, classes=() if task == "regression" else CLASSES)
    targets = {
        "classification": labels,
        "multilabel": torch.stack([labels == 0, labels >= 1, labels == 2], dim=1).float(),
        "regression": 5.0 + 2.0 * labels + 0.1 * torch.randn(COUNT, generator=draw),
    }[task]
    return Problem(kind, column, _features(kind, labels, draw), targets)


def _features(kind: str, labels: Tensor, draw: torch.Generator) -> Any:
    def around(width: int, *shape: int) -> Tensor:
        centres = torch.randn(len(CLASSES), width, generator=draw)[labels]
        noise = 0.2 * torch.randn(COUNT, width, *shape, generator=draw)
        return centres.reshape(COUNT, width, *(1 for _ in shape)) + noise

    width = FEATURES[kind]
    if isinstance(width, tuple):
        return [around(w, 8 // 2**level, 8 // 2**level) for level, w in enumerate(width)]
    if kind == "tokens":
        return around(width, 5).transpose(1, 2).contiguous()
    return around(width, 4, 4) if kind == "map" else around(width)


def build(entry: HeadEntry, kind: str, *columns: Column, fitted: Problem | None = None) -> nn.Module:
    """The head with default options, in evaluation mode; heads that only ``fit`` are fitted on ``fitted``."""
    options = parse_options(entry.spec.options, entry.spec.example, where="example")
    factory: Any = entry.factory()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        head: nn.Module = factory(entry.spec, options, width=FEATURES[kind], targets=columns)
    if hasattr(head, "initialise"):
        head.initialise(TinyBackbone(kind), columns)
    if fitted is not None and not entry.spec.gradient and hasattr(head, "fit"):
        head.fit(fitted.features, {fitted.column.name: fitted.targets})
    return head.eval()


def each(entry: HeadEntry) -> Iterator[tuple[Problem, Any, dict[str, Tensor]]]:
    """Every problem with a head that is ready for it and the head's outputs."""
    for problem in problems(entry):
        head: Any = build(entry, problem.kind, problem.column, fitted=problem)
        with torch.no_grad():
            yield problem, head, head(problem.features)


def part(features: Any, rows: Any) -> Any:
    """Some samples of features of any kind."""
    return [level[rows] for level in features] if isinstance(features, list) else features[rows]


def outputs_have_declared_size(entry: HeadEntry) -> None:
    """``{column: [B, classes]}``, or [B] for regression; finite; the same for a sample alone."""
    for problem, head, outputs in each(entry):
        require(set(outputs) == {"label"}, f"outputs of {sorted(outputs)}, not of the column 'label'")
        column = problem.column
        wanted = (COUNT,) if column.kind == "regression" else (COUNT, column.size)
        shape = tuple(outputs["label"].shape)
        require(shape == wanted, f"{column.kind} outputs on {problem.kind} features are {shape}, not {wanted}")
        require(outputs["label"].isfinite().all(), f"{column.kind} outputs are not finite")
        with torch.no_grad():
            alone = head(part(problem.features, slice(0, 1)))["label"]
        gap = float((alone - outputs["label"][:1]).abs().max())
        require(gap < 1e-3, f"a sample alone gives other outputs than in a batch (by {gap:.2g})")


def loss_is_per_sample(entry: HeadEntry) -> None:
    """``{column: [B]}``, finite, and a sample's loss does not depend on its neighbours."""
    for problem, head, outputs in each(entry):
        losses = head.loss(outputs, {"label": problem.targets})["label"]
        require(losses.shape == (COUNT,), f"the {problem.column.kind} loss is {tuple(losses.shape)}, not ({COUNT},)")
        require(losses.isfinite().all(), f"the {problem.column.kind} loss is not finite")
        some = torch.tensor([7, 2, 19])
        few = head.loss({"label": outputs["label"][some]}, {"label": problem.targets[some]})["label"]
        require(torch.allclose(few, losses[some], atol=1e-4, rtol=1e-4), "a sample's loss depends on its batch")


def missing_labels_are_nan(entry: HeadEntry) -> None:
    """The loss is NaN exactly where the label is missing, and no gradient is NaN because of it."""
    for problem, head, outputs in each(entry):
        targets = problem.targets.clone()
        targets[[1, 4]] = -1 if problem.column.kind == "classification" else torch.nan
        live = outputs["label"].detach().requires_grad_()
        losses = head.loss({"label": live}, {"label": targets})["label"]
        missing = losses.isnan().nonzero().flatten().tolist()
        require(missing == [1, 4], f"labels are missing at [1, 4], the {problem.column.kind} loss is NaN at {missing}")
        if losses.requires_grad:
            torch.where(losses.isnan(), 0.0, losses).sum().backward()
            require(live.grad is not None and live.grad.isfinite().all(), "a missing label makes gradients NaN")
            require(_sound(head), "a missing label makes gradients of the head's parameters NaN")


def _sound(head: nn.Module) -> bool:
    return all(p.grad is None or bool(p.grad.isfinite().all()) for p in head.parameters())


def soft_targets_accepted(entry: HeadEntry) -> None:
    """Soft targets [B, C] work, one-hot ones give the loss of the integer labels, a row of NaN is a missing label."""
    for problem, head, outputs in each(entry):
        if problem.column.kind != "classification":
            continue
        hard = head.loss(outputs, {"label": problem.targets})["label"]
        hot = F.one_hot(problem.targets, len(CLASSES)).float()
        soft = head.loss(outputs, {"label": hot})["label"]
        require(torch.allclose(hard, soft, atol=1e-4, rtol=1e-4), "one-hot targets give another loss than the labels")
        mixed = head.loss(outputs, {"label": 0.5 * hot + 0.5 * hot.roll(1, 0)})["label"]
        require(mixed.shape == (COUNT,) and mixed.isfinite().all(), "soft targets give a broken loss")
        hot[[1, 4]] = torch.nan
        live = outputs["label"].detach().requires_grad_()
        losses = head.loss({"label": live}, {"label": hot})["label"]
        missing = losses.isnan().nonzero().flatten().tolist()
        require(missing == [1, 4], f"soft targets are missing at [1, 4], the loss is NaN at {missing}")
        if losses.requires_grad:
            torch.where(losses.isnan(), 0.0, losses).sum().backward()
            require(live.grad is not None and live.grad.isfinite().all(), "a missing soft target makes gradients NaN")


def decode_is_in_range(entry: HeadEntry) -> None:
    """Class probabilities sum to one, or are all zero where a head abstains; multilabel ones lie in 0 to 1; finite."""
    for problem, head, outputs in each(entry):
        kind, scores = problem.column.kind, head.decode(outputs)["label"]
        require(scores.shape == outputs["label"].shape, f"decoded {kind} scores are {tuple(scores.shape)}")
        require(scores.isfinite().all(), f"decoded {kind} scores are not finite")
        if kind != "regression":
            require(bool((scores >= 0).all() and (scores <= 1 + 1e-5).all()), f"{kind} scores leave 0 to 1")
        if kind == "classification":
            whole, none = (scores.sum(1) - 1).abs() <= 1e-4, (scores == 0).all(1)
            require(bool((whole | none).all()), "class probabilities sum to neither one nor, abstaining, to zero")
            quiet = bool(none.any()) and not getattr(head, "abstains", False)
            require(not quiet, "the head abstains, and has no attribute abstains = True")
        if kind == "regression" and not entry.spec.gradient:
            error = float((scores - problem.targets).abs().mean())
            require(error < 2.0, f"fitted values are off by {error:.2g} on the samples that were fitted")


def fold_equals_forward(entry: HeadEntry) -> None:
    """Where ``fold`` gives a linear layer it ranks as the head does; logits differ by a constant per row at most."""
    for problem, head, outputs in each(entry):
        folded = head.fold() if hasattr(head, "fold") and problem.kind == "pooled" else None
        if folded is None:
            continue
        logits = F.linear(problem.features, folded.weight, folded.bias)
        own = outputs["label"].reshape(COUNT, -1)
        require(logits.shape == own.shape, f"the folded layer gives {tuple(logits.shape)}, the head {tuple(own.shape)}")
        gap = logits - own
        if problem.column.kind == "classification":
            gap = gap - gap.mean(1, keepdim=True)
            require(torch.equal(logits.argmax(1), own.argmax(1)), "the folded layer predicts other classes")
        worst = float(gap.abs().max())
        require(worst <= 1e-4 * max(1.0, float(own.abs().max())), f"the folded layer differs by {worst:.2g}")


def traceable_form_equals_forward(entry: HeadEntry) -> None:
    """Where a head has ``traceable()``, what that gives can be exported for any batch size and says the same."""
    for problem, head, outputs in each(entry):
        if not hasattr(head, "traceable") or not isinstance(problem.features, Tensor):
            continue
        free = ({0: torch.export.Dim("batch", min=1)},)
        try:
            with torch.no_grad():
                program = torch.export.export(head.traceable(), (problem.features,), dynamic_shapes=free, strict=False)
                traced = program.module()
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise AssertionError(f"torch.export cannot trace what traceable() gives: {reason}") from error
        for rows in (COUNT, 1, 5):
            with torch.no_grad():
                gap = traced(problem.features[:rows])["label"] - outputs["label"][:rows]
            require(float(gap.abs().max()) <= 1e-4, f"traced, {rows} samples differ by {float(gap.abs().max()):.2g}")


def fit_needs_no_gradient(entry: HeadEntry) -> None:
    """``fit`` works without gradients, leaves none behind, and what it fitted predicts the samples."""
    for problem in problems(entry):
        head: Any = build(entry, problem.kind, problem.column)
        if not hasattr(head, "fit"):
            continue
        with torch.no_grad():
            head.fit(problem.features, {"label": problem.targets})
            outputs = head(problem.features)
        require(all(p.grad is None for p in head.parameters()), "fit leaves gradients behind")
        if problem.column.kind == "classification":
            right = (head.decode(outputs)["label"].argmax(1) == problem.targets).float().mean()
            require(right > 0.9, f"fitted on classes that lie apart, it gets {float(right):.0%} of them")


def gradients_reduce_the_loss(entry: HeadEntry) -> None:
    """Forty steps of Adam lower the loss, and every parameter gets a gradient."""
    for problem in problems(entry):
        head: Any = build(entry, problem.kind, problem.column).train()
        named = dict(head.named_parameters())
        require(named, "gradient=True, and there is no parameter")
        optimiser = torch.optim.Adam(named.values(), lr=0.02)
        targets, reached = {"label": problem.targets}, set()
        before = _loss(head, problem)
        for step in range(40):
            torch.default_generator.manual_seed(step)
            optimiser.zero_grad()
            head.loss(head(problem.features), targets)["label"].mean().backward()
            reached |= {name for name, p in named.items() if p.grad is not None}
            optimiser.step()
        dead = sorted(name for name, p in named.items() if p.requires_grad and name not in reached)
        require(not dead, f"parameters without a gradient: {', '.join(dead[:4])}")
        after = _loss(head, problem)
        require(after < before, f"the {problem.column.kind} loss went from {before:.4f} to {after:.4f}")


def _loss(head: Any, problem: Problem) -> float:
    with evaluating(head), torch.no_grad():
        return float(head.loss(head(problem.features), {"label": problem.targets})["label"].mean())


def several_columns_work_or_are_refused(entry: HeadEntry) -> None:
    """With two columns the head has outputs, loss and scores for both, or says why not in a ZooError."""
    for problem in problems(entry):
        second = Column(name="other", kind=problem.column.kind, classes=problem.column.classes)
        try:
            head: Any = build(entry, problem.kind, problem.column, second)
            targets = {"label": problem.targets, "other": problem.targets.roll(1, 0)}
            if not entry.spec.gradient and hasattr(head, "fit"):
                head.fit(problem.features, targets)
        except ZooError:
            continue
        with torch.no_grad():
            outputs = head(problem.features)
        for what in (outputs, head.loss(outputs, targets), head.decode(outputs)):
            require(set(what) == {"label", "other"}, f"two columns go in, {sorted(what)} come out")
        if entry.spec.gradient:
            targets["other"] = targets["other"].clone()
            targets["other"][[1, 4]] = -1 if problem.column.kind == "classification" else torch.nan
            losses = torch.stack(list(head.loss(head(problem.features), targets).values()))
            torch.where(losses.isnan(), 0.0, losses).sum().backward()
            require(_sound(head), "a label missing in one of two columns makes gradients NaN")


def state_dict_survives_safetensors(entry: HeadEntry) -> None:
    """Saved, and loaded into a head that was just built, the state gives the same outputs."""
    from safetensors.torch import load_file, save_file

    for problem, head, outputs in each(entry):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "head.safetensors"
            save_file({name: tensor.contiguous() for name, tensor in head.state_dict().items()}, path)
            state = load_file(path)
        fresh = build(entry, problem.kind, problem.column)
        named = getattr(head, "data_sized", ())
        for name, tensor in fresh.state_dict().items():
            start = 1 if name in named else 0
            same = name in state and tensor.shape[start:] == state[name].shape[start:]
            require(same, f"{name!r} changes its shape; data_sized may name what follows the number of samples")
        fresh.load_state_dict(state)
        with torch.no_grad():
            again = fresh.eval()(problem.features)
        require(torch.equal(again["label"], outputs["label"]), "a head loaded from its file gives other outputs")
