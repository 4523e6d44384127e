"""Fine-tuning from plan to bundle: assemble, train, evaluate, write."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from zoo_registry import Registry, UsageError
from zoo_registry.options import parse_options
from zoo_registry.strategy import compose

from zoo.assembly.assemble import Assembled, assemble_model
from zoo.assembly.model import TransferModel
from zoo.bundle.licences import aloud, base_licence
from zoo.compute.allocator import pages_kept
from zoo.compute.choose import choose_path
from zoo.compute.path import check_path, settled
from zoo.concluding import write_result
from zoo.data.dataset import Dataset
from zoo.determinism import reproducible
from zoo.devices import resolve_device
from zoo.evaluation.report import Report
from zoo.files import remove_leftovers
from zoo.origins import settle_origin
from zoo.planning import Plan, Request, make_plan
from zoo.recipe import Recipe, read_recipe, write_recipe
from zoo.recipe.toml import recipe_to_dict
from zoo.resuming import resumed_request, settle_changes
from zoo.runs import LOCK, RunFolder
from zoo.teachers import Teachers
from zoo.tracking import Fan, build_trackers, join_trackers, open_tracking, read_trackers
from zoo.training.checkpoint import CheckpointFolder
from zoo.training.feed import batch_notes
from zoo.training.limits import Limits, SmallerStepsError, release_memory
from zoo.training.lock import RunLock
from zoo.training.log import MetricsLog
from zoo.training.loop import train
from zoo.training.progress import Reporter
from zoo.training.rehearsal import rehearse
from zoo.training.run import Phase, TrainingRun
from zoo.training.session import check_circumstances, listed_bad, told_ends, write_circumstances
from zoo.training.signals import StopSignal
from zoo.training.streams import check_streams
from zoo.training.supply import settle_supply


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """What a run came to.

    Attributes:
        run: the run folder.
        model: the bundle's folder.
        metrics: of the evaluation split (``test`` where there is one, else ``val``).
        split: which split that was.
        reports: split -> full report.
        recipe: the resolved recipe.
    """

    run: Path
    model: Path
    metrics: dict[str, float]
    split: str
    reports: dict[str, Report] = field(repr=False)
    recipe: Recipe = field(repr=False)


def start(
    request: Request,
    registry: Registry,
    *,
    out: Path,
    device: str = "auto",
    hub: str | None = None,
    offline: bool = False,
    reporter: Reporter | None = None,
) -> FinetuneResult:
    """Run a new fine-tuning. Nothing is written before data, names, options and weights have been found good.

    Raises:
        ZooError: see :mod:`zoo_registry.errors`; what was written can be resumed where it says so.
    """
    RunFolder(out).refuse_existing()
    from zoo.preview.batch import choose_batch

    reporter = reporter or Reporter()
    choose = choose_batch(registry, device=device, hub=hub, say=reporter.note)
    request = settle_origin(request, registry, hub=hub, offline=offline)
    plan = make_plan(request, registry, choose_batch=choose)
    return execute_plan(plan, registry, out=out, device=device, hub=hub, offline=offline, reporter=reporter)


def execute_plan(
    plan: Plan,
    registry: Registry,
    *,
    out: Path,
    device: str = "auto",
    hub: str | None = None,
    offline: bool = False,
    reporter: Reporter | None = None,
) -> FinetuneResult:
    """Run a plan from its start, see :func:`start`."""
    where = resolve_device(device)
    return _go_on(plan, registry, RunFolder(out), where, hub, offline, reporter or Reporter(), resume=False)


def resume(
    registry: Registry,
    *,
    out: Path,
    data: Any = None,
    asked: Request | None = None,
    device: str = "auto",
    hub: str | None = None,
    offline: bool = False,
    reporter: Reporter | None = None,
) -> FinetuneResult:
    """Go on with the run in ``out``, by its own recipe; ``data`` is needed where the recipe cannot name it.

    What is ``asked`` beside that may not change the result (:data:`zoo.resuming.FREE`); it holds for this time.
    Trackers do not: those that the run began with follow on, and those asked for come to them.

    Raises:
        ZooError: there is no unfinished run, the data differs from what the run started with, or so do settings.
    """
    folder = RunFolder(out)
    folder.require_resumable()
    recipe = read_recipe(folder.recipe)
    plan = make_plan(resumed_request(asked, recipe, data), registry)
    reporter = reporter or Reporter()
    for line in settle_changes(folder.path, recipe, plan.recipe):
        reporter.note(line)
    return _go_on(plan, registry, folder, resolve_device(device), hub, offline, reporter, resume=True)


def assemble_recipe(
    recipe: Recipe,
    data: Dataset,
    registry: Registry,
    device: torch.device,
    *,
    hub: str | None = None,
    offline: bool = False,
    pretrained: bool | None = None,
) -> Assembled:
    """The model that a resolved recipe names, for this data."""
    return assemble_model(
        registry,
        backbone=recipe.backbone.name,
        head=recipe.head.name,
        columns=data.columns,
        backbone_options=recipe.backbone.options,
        head_options=recipe.head.options,
        pretrained=recipe.pretrained if pretrained is None else pretrained,
        pinned=recipe.weights,
        image_size=recipe.image_size,
        in_chans=recipe.in_chans,
        input=recipe.input,
        seed=recipe.seed,
        device=device,
        hub=hub,
        offline=offline,
    )


def build_phases(recipe: Recipe, registry: Registry) -> list[Phase]:
    """Build every phase's strategies, in calling order."""
    phases = []
    for phase in recipe.phases:
        parts = []
        for component in phase.strategies:
            entry = registry.strategy(component.name)
            factory: Any = entry.factory()
            options = parse_options(entry.spec.options, component.options, where=entry.spec.name)
            parts.append((entry.spec, factory(entry.spec, options)))
        phases.append(Phase(phase, compose(parts)))
    return phases


def _go_on(
    plan: Plan,
    registry: Registry,
    folder: RunFolder,
    device: torch.device,
    hub: str | None,
    offline: bool,
    reporter: Reporter,
    *,
    resume: bool,
) -> FinetuneResult:
    """Run a plan to its end: where a step does not fit into memory, go on as a resume would, in smaller parts."""
    while True:
        try:
            return _execute(plan, registry, folder, device, hub, offline, reporter, resume=resume)
        except SmallerStepsError as smaller:
            reporter.note(smaller.message)
        release_memory()
        if not resume:  # by now its recipe is resolved to the last
            plan, resume = dataclasses.replace(plan, recipe=read_recipe(folder.recipe)), True


def _execute(
    plan: Plan,
    registry: Registry,
    folder: RunFolder,
    device: torch.device,
    hub: str | None,
    offline: bool,
    reporter: Reporter,
    *,
    resume: bool,
) -> FinetuneResult:
    recipe, data = plan.recipe, plan.data
    check_path(recipe.train, device)
    hint = f"go on with: zoo finetune --resume --out {shlex.quote(str(folder.path))}"
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal(hint if resume else "nothing was written yet; start it again"))
        if resume:
            lock = stack.enter_context(RunLock(folder.path))
            if lock.taken_over:
                reporter.note(lock.taken_over)
            folder.require_resumable()
            remove_leftovers(folder.path, keep=LOCK)
            for line in check_circumstances(folder, data, device):
                reporter.note(line)
        built = None if resume else build_trackers(plan.trackers, registry)
        stack.enter_context(pages_kept())
        threads = stack.enter_context(reproducible(recipe.train.deterministic, recipe.train.threads))
        phases = build_phases(recipe, registry)
        for phase in phases:
            check_streams(phase.specs, data)
        assembled = assemble_recipe(recipe, data, registry, device, hub=hub, offline=offline)
        recipe = _pin(recipe, assembled, threads if device.type == "cpu" else 0)
        check_head_methods(assembled, phases)
        batches = batch_notes(len(data.split("train")), recipe.train.batch_size)
        for line in (*assembled.summary(), *licence_lines(assembled), *batches):  # those on the data were logged
            reporter.note(line)
        prepare = getattr(assembled.model.head, "prepare_targets", None)
        if prepare is not None:
            prepare(data.split("train").targets)
        teachers = Teachers(registry, device, hub, offline, pinned=recipe.teachers)
        run = _make_run(assembled, phases, recipe, data, registry, teachers)
        if not resume:
            rehearsed = rehearse(run, build_phases(recipe, registry))
            choice = choose_path(run, lambda: build_phases(recipe, registry), rehearsed)
            run.settle(choice.path)
            reporter.note(choice.line())
            settle_supply(run, reporter.note, rehearsed, choice)
            train_options = dataclasses.replace(settled(recipe.train, choice.path), workers=run.workers)
            recipe = dataclasses.replace(recipe, teachers=teachers.found, train=train_options)
            _open_folder(folder, recipe, data, device, stack)
        else:
            settle_supply(run, reporter.note)
        stop.hint = hint
        log = MetricsLog(folder.metrics)
        known = read_trackers(folder.trackers) if resume else ()
        tracking = open_tracking(
            join_trackers(known, plan.trackers), built, registry, folder, recipe_to_dict(recipe), log, reporter
        )
        if tracking.trackers:
            reporter = Fan(reporter, tracking)
        run.limits = Limits(folder.limits)
        with tracking.followed(), told_ends(hint, stop), listed_bad(folder.bad_samples, run, reporter):
            checkpoints = CheckpointFolder(folder.checkpoints)
            machine = MetricsLog(folder.machine)
            train(run, log=log, checkpoints=checkpoints, reporter=reporter, stop=stop, machine=machine)
            reports, chosen = write_result(run, log, assembled, recipe, registry, folder, reporter)
            metrics = reports[chosen].metrics
            tracking.final(metrics)
            tracking.figures({path.stem: path for path in (folder.curves, *sorted(folder.model.glob("*.png")))})
            return FinetuneResult(
                run=folder.path, model=folder.model, metrics=metrics, split=chosen, reports=reports, recipe=recipe
            )


def _make_run(
    assembled: Assembled,
    phases: list[Phase],
    recipe: Recipe,
    data: Dataset,
    registry: Registry,
    teachers: Teachers,
) -> TrainingRun:
    device, hub, offline = teachers.device, teachers.hub, teachers.offline

    def rebuild() -> TransferModel:
        return assemble_recipe(recipe, data, registry, device, hub=hub, offline=offline, pretrained=False).model

    return TrainingRun(
        model=assembled.model,
        phases=phases,
        data=data,
        input=assembled.input,
        options=recipe.train,
        seed=recipe.seed,
        device=device,
        max_bad=recipe.data.bad_allowed,
        assembler=teachers,
        rebuild=rebuild,
    )


def _pin(recipe: Recipe, assembled: Assembled, threads: int) -> Recipe:
    """Note where the weights came from, and the number of CPU threads where they compute (0 where they do not).

    A rerun of the recipe must find the same bytes, and splits its sums in the same way.
    """
    if recipe.weights and assembled.weights:
        known, found = recipe.weights.get("sha256"), assembled.weights.get("sha256")
        if known is not None and known != found:
            raise UsageError(
                f"the recipe pins the weights of {assembled.backbone.name} to sha256 {known}, found {found}",
                hint="remove [weights] from the recipe to take the ones found",
            )
    train = dataclasses.replace(recipe.train, threads=threads or recipe.train.threads)
    return dataclasses.replace(recipe, train=train, weights=dict(assembled.weights) if assembled.weights else None)


def licence_lines(assembled: Assembled) -> list[str]:
    """What is said of the licence of the weights that a run begins with, where it is not free for every use."""
    if assembled.weights is None:
        return []
    line = aloud(base_licence(assembled.backbone.spec.weights, assembled.weights)[0], assembled.backbone.name)
    return [line] if line else []


def check_head_methods(assembled: Assembled, phases: list[Phase]) -> None:
    """The head must have the methods that strategies call.

    Raises:
        UsageError: it lacks one.
    """
    for phase in phases:
        for spec in phase.specs:
            missing = [name for name in sorted(spec.head_needs) if not hasattr(assembled.model.head, name)]
            if missing:
                raise UsageError(
                    f"strategy {spec.name} needs a head with {missing[0]}(), which {assembled.head.name} does not have",
                    hint="a head such as prototype has it",
                )


def _open_folder(folder: RunFolder, recipe: Recipe, data: Dataset, device: torch.device, stack: ExitStack) -> None:
    """Make the run folder, hold it as long as ``stack`` lasts, and write the recipe last: then it is a run.

    Raises:
        ConflictError: somebody else was faster.
        UsageError: the folder cannot be written.
    """
    existed = folder.path.exists()
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        stack.enter_context(RunLock(folder.path))
        folder.refuse_existing()
        write_circumstances(folder, data, device)
        write_recipe(folder.recipe, recipe)
    except OSError as error:
        if not existed:
            shutil.rmtree(folder.path, ignore_errors=True)
        reason = f"cannot write to {str(folder.path)!r}: {error.strerror}"
        raise UsageError(reason, hint="choose another --out") from error
