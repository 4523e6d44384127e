"""The Python API, in the same words as the command line; of models that are there see :mod:`zoo.api_models`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_registry import Entry, Registry, UsageError

from zoo.api_models import diff, evaluate, export, load, predict, predict_stream, pull, push, verify
from zoo.recipe.recipe import Recipe

if TYPE_CHECKING:
    from zoo.assembly.assemble import Assembled
    from zoo.finetuning import FinetuneResult
    from zoo.planning import Request
    from zoo.preview.report import Preview
    from zoo.rates.finding import RateFinding
    from zoo.training.progress import Reporter

_TRAIN = ("epochs", "batch_size", "lr", "weight_decay", "augment", "workers")
_DATA = ("max_bad", "strict", "image_column", "split_column", "task")

__all__ = [
    "assemble",
    "diff",
    "evaluate",
    "export",
    "find_lr",
    "finetune",
    "list_backbones",
    "list_heads",
    "list_strategies",
    "list_trackers",
    "load",
    "plan",
    "predict",
    "predict_stream",
    "pull",
    "push",
    "verify",
]


def list_backbones(pattern: str | None = None) -> list[str]:
    """Full names of the installed backbones; ``pattern`` is a part of the name or a glob."""
    return _names("backbone", pattern)


def list_heads(pattern: str | None = None) -> list[str]:
    """Full names of the installed heads."""
    return _names("head", pattern)


def list_strategies(pattern: str | None = None) -> list[str]:
    """Full names of the installed strategies."""
    return _names("strategy", pattern)


def list_trackers(pattern: str | None = None) -> list[str]:
    """Full names of the installed trackers."""
    return _names("tracker", pattern)


def _names(kind: str, pattern: str | None) -> list[str]:
    from zoo.patterns import matches

    entries: Sequence[Entry[Any]] = Registry().entries(kind)
    return [entry.name for entry in entries if matches(entry.name, pattern)]


def assemble(backbone: str, *, head: str = "linear", classes: Sequence[str], **options: Any) -> Assembled:
    """Build a transfer model for a classification of ``classes``; see :func:`zoo.assembly.assemble.assemble_model`.

    Returns:
        What was built: ``.model`` is a torch module, ``.model.predict(x)`` takes normalised inputs [B, C, H, W].
    """
    from zoo_registry import Column

    from zoo.assembly.assemble import assemble_model
    from zoo.devices import resolve_device

    device = resolve_device(str(options.pop("device", "auto")))
    columns = (Column(name="label", classes=tuple(classes)),)
    return assemble_model(Registry(), backbone=backbone, head=head, columns=columns, device=device, **options)


def finetune(
    data: Any = None,
    *,
    backbone: str | None = None,
    weights: str | Path | None = None,
    head: str | None = None,
    strategy: str | None = None,
    epochs: int | None = None,
    out: str | Path | None = None,
    settings: Sequence[str] = (),
    track: Sequence[str] = (),
    recipe: Recipe | str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    seed: int | None = None,
    pretrained: bool | None = None,
    image_size: int | None = None,
    in_chans: int | None = None,
    batch_size: int | str | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    augment: str | None = None,
    workers: int | str | None = None,
    max_bad: float | None = None,
    strict: bool | None = None,
    image_column: str | None = None,
    label_columns: Sequence[str] = (),
    split_column: str | None = None,
    task: str | None = None,
    hub: str | None = None,
    offline: bool = False,
    reporter: Reporter | None = None,
) -> FinetuneResult:
    """Fine-tune a backbone on data, evaluate the result and write a bundle.

    Args:
        data: a folder of class folders, a table, ``digits:``, a torch or Hugging Face dataset, or a mapping of splits.
        backbone, head: names; a recommended backbone and the plain head for the task by default. A backbone may also
            be ``hf:owner/name[@revision]``, or the folder of a bundle, a run or what another library saved.
        weights: a safetensors file in place of the backbone's own weights.
        strategy: the expression, such as ``linear:3,full:10``.
        epochs: of the last phase that names none.
        out: the run folder; ``runs/N`` by default.
        settings: ``KEY=VALUE`` texts, as with ``--set``.
        track: names of trackers that follow the run; they do not change it.
        recipe: a recipe, or the path of one; what is said beside it goes before it.
        resume: go on with the run in ``out``; what is said beside it may not change the result.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        seed: of everything random.
        pretrained: False starts from random weights.
        image_size, in_chans: in place of the backbone's own.
        batch_size, lr, weight_decay, augment, workers: see ``zoo finetune --help``; a ``batch_size`` of ``auto`` is the
            largest that fits.
        max_bad: share of unreadable images above which training refuses.
        strict: refuse unreadable images, and images of train that stand in another split too.
        image_column, label_columns, split_column, task: how a table is read.
        hub, offline: where weights come from.
        reporter: told of progress.

    Raises:
        ZooError: see :mod:`zoo_registry.errors`.
    """
    from zoo import finetuning
    from zoo.runs import next_run_folder

    registry = Registry()
    places = {"device": device, "hub": hub, "offline": offline, "reporter": reporter}
    if resume and out is None:
        raise UsageError("resume needs the run folder", hint="--resume --out RUN")
    request = _request(
        data,
        backbone=backbone,
        weights=None if weights is None else str(weights),
        head=head,
        strategy=strategy,
        epochs=epochs,
        settings=settings,
        trackers=tuple(track),
        recipe=recipe,
        seed=seed,
        pretrained=pretrained,
        image_size=image_size,
        in_chans=in_chans,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        augment=augment,
        workers=workers,
        max_bad=max_bad,
        strict=strict,
        image_column=image_column,
        label_columns=label_columns,
        split_column=split_column,
        task=task,
    )
    if resume:
        return finetuning.resume(registry, out=Path(str(out)), asked=request, **places)  # type: ignore[arg-type]
    folder = Path(out) if out is not None else next_run_folder()
    return finetuning.start(request, registry, out=folder, **places)  # type: ignore[arg-type]


def plan(
    data: Any = None,
    *,
    device: str = "auto",
    hub: str | None = None,
    offline: bool = False,
    batches: int = 3,
    **asked: Any,
) -> Preview:
    """What :func:`finetune` would do: who learns in which phase, at which rate, how long it takes and what it needs.

    Nothing is downloaded or written; it is what ``zoo finetune --dry-run`` prints, ``.to_json()`` its JSON.

    Args:
        data: as for :func:`finetune`.
        device: what to measure on.
        hub, offline: where weights would come from.
        batches: steps that are timed in each phase; 0 measures nothing.
        asked: what else :func:`finetune` takes, but for ``out``, ``resume`` and ``reporter``.

    Raises:
        ZooError: the recipe is wrong: everything that is, at once.
    """
    from zoo.origins import settle_origin
    from zoo.planning import make_plan
    from zoo.preview.batch import choose_batch
    from zoo.preview.preview import preview

    registry = Registry()
    choose = choose_batch(registry, device=device, hub=hub, say=lambda line: None)
    request = settle_origin(_request(data, **asked), registry, hub=hub, offline=offline)
    made = make_plan(request, registry, choose_batch=choose)
    return preview(made, registry, device=device, hub=hub, offline=offline, batches=batches)


def find_lr(
    data: Any = None,
    *,
    phase: int | None = None,
    steps: int = 100,
    low: float = 1e-6,
    high: float = 1.0,
    out: str | Path | None = None,
    device: str = "auto",
    hub: str | None = None,
    offline: bool = False,
    reporter: Reporter | None = None,
    **asked: Any,
) -> RateFinding:
    """Which learning rate :func:`finetune` should take: the range test of Smith (2015, arXiv 1506.01186).

    Rates grow from step to step on a throw-away copy of each phase; ``.phases[0].suggestion`` is where the loss falls
    fastest, ``.to_json()`` has every step.

    Args:
        data: as for :func:`finetune`.
        phase: number of the one phase to try, from 1; all that take gradient steps by default.
        steps, low, high: of a ramp.
        out: a folder for ``find-lr.json`` and ``find-lr.png``; without it nothing is written.
        device, hub, offline, reporter: as for :func:`finetune`.
        asked: what else :func:`finetune` takes, but for ``resume``.

    Raises:
        ZooError: the recipe is wrong, or has no gradient steps.
    """
    from zoo.origins import settle_origin
    from zoo.planning import make_plan
    from zoo.preview.batch import choose_batch
    from zoo.rates.find import find_rates

    registry = Registry()
    choose = choose_batch(registry, device=device, hub=hub, say=reporter.note if reporter else lambda line: None)
    request = settle_origin(_request(data, **asked), registry, hub=hub, offline=offline)
    made = make_plan(request, registry, choose_batch=choose)
    places = {"device": device, "hub": hub, "offline": offline, "reporter": reporter}
    found = find_rates(made, registry, phase=phase, steps=steps, low=low, high=high, **places)  # type: ignore[arg-type]
    if out is not None:
        found.write(Path(out))
    return found


def _request(
    data: Any,
    *,
    settings: Sequence[str] = (),
    recipe: Recipe | str | Path | None = None,
    label_columns: Sequence[str] = (),
    **asked: Any,
) -> Request:
    """The arguments of :func:`finetune` as a request.

    Raises:
        TypeError: an argument that there is not.
    """
    from zoo.planning import Request
    from zoo.recipe import read_recipe

    train = {name: asked.pop(name, None) for name in _TRAIN}
    data_options = {name: asked.pop(name, None) for name in _DATA}
    return Request(
        data=data,
        settings=tuple(settings),
        train=train,
        data_options={**data_options, "label_columns": tuple(label_columns) or None},
        recipe=read_recipe(Path(recipe)) if isinstance(recipe, str | Path) else recipe,
        **asked,
    )
