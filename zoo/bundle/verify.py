"""Loading a bundle in a fresh process, which must find its golden logits, and its metrics where the data is at hand.

The process is ``python -m zoo.bundle.verify`` under :mod:`zoo.watched`; ``zoo push`` starts it before it publishes
anything. A delta is made whole first, from its base. It knows nothing but the files and, of the run, the recipe.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from zoo_registry import IntegrityError, Registry, ZooError

from zoo.bundle import proof
from zoo.deadline import Deadline
from zoo.hub.files import verify_folder
from zoo.watched import CrashError, Tell, serve, watch

if TYPE_CHECKING:
    from zoo.bundle.document import Document
    from zoo.bundle.read import LoadedModel
    from zoo.data.dataset import Dataset


@dataclass(frozen=True)
class Checked:
    """What a fresh process found.

    Attributes:
        difference: the largest of the golden logits.
        metrics: split -> metrics that it came to again.
        why: why it did not measure others.
    """

    difference: float = 0.0
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    why: str | None = proof.NO_RUN


def verify_in_fresh_process(
    path: Path, hub: str | None = None, run: Path | None = None, told: Callable[[str], Any] | None = None
) -> Checked:
    """Verify a bundle in a process of its own.

    Args:
        path: the bundle, whole or a delta.
        hub: where a delta's base may be.
        run: the run that made it; its recipe says where the data is, and the metrics are measured again.
        told: called with a line on what was measured.

    Raises:
        IntegrityError: it cannot be loaded, or its logits or metrics differ.
    """
    order = {"path": str(path), "hub": hub, "run": str(run) if run is not None else None}

    def on(event: dict[str, Any]) -> None:
        if told is not None and "say" in event:
            told(event["say"])

    try:
        answer = watch("zoo.bundle.verify", order, on=on, deadline=Deadline())
    except CrashError as error:
        raise IntegrityError(f"{path}: a fresh process could not load the bundle: {error.message}") from error
    except ZooError as error:
        raise IntegrityError(error.message, hint=error.hint) from error
    return Checked(**answer)


def work(order: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """What the fresh process does."""
    from zoo.bundle.small import DELTA

    path, run, registry = Path(order["path"]), order["run"], Registry()
    tell({"at": f"loading {path}"})
    if not (path / DELTA).is_file():
        return _verify(path, str(path), run, registry, tell)
    from zoo.bundle.delta import rebuild_whole

    with TemporaryDirectory() as folder:  # not the cache: nothing made before may vouch for it
        listed = verify_folder(path, str(path))
        rebuild_whole(path, Path(folder), listed, registry, hub=order["hub"], where=str(path))
        return _verify(Path(folder), str(path), run, registry, tell)


def _verify(path: Path, name: str, run: str | None, registry: Registry, tell: Tell) -> dict[str, Any]:
    from zoo.bundle.golden import check_golden
    from zoo.bundle.read import load_bundle

    loaded = load_bundle(path, registry, name=name)
    difference = check_golden(loaded.model, loaded.input, loaded.document.golden, where=name)
    if run is None or not loaded.document.metrics:
        return {"difference": difference, "metrics": {}, "why": proof.NO_RUN if loaded.document.metrics else None}
    data, why = run_data(Path(run), loaded.document)
    found: dict[str, dict[str, float]] = {}
    for split in loaded.document.metrics if data is not None else ():
        if data is None or split not in data.splits:
            why = proof.NO_SPLIT
        else:
            found[split] = measure(loaded, data, split, tell)
    return {"difference": difference, "metrics": found, "why": why}


def run_data(run: Path, document: Document) -> tuple[Dataset | None, str | None]:
    """The data that a run learned from, or why it is not to be had: gone, changed, or never named."""
    from zoo.planning import open_recipe_data
    from zoo.recipe import read_recipe
    from zoo.runs import RunFolder

    recipe, seen = read_recipe(RunFolder(run).recipe), document.data.get("fingerprint")
    if recipe.source is None:
        return None, proof.NO_NAME
    try:
        data = open_recipe_data(recipe.source, recipe, labels=document.columns, trained_on=seen, check_leaks=False)
    except ZooError:
        return None, proof.NOT_THERE
    return (data, None) if data.fingerprint == seen else (None, proof.CHANGED)


def measure(loaded: LoadedModel, data: Dataset, split: str, tell: Tell) -> dict[str, float]:
    """Measure a split from its files and compare with what was recorded; returns the metrics found again.

    Raises:
        IntegrityError: a metric differs by more than :data:`zoo.bundle.proof.TOLERANCE` and a sample.
    """
    from zoo.devices import resolve_device
    from zoo.evaluation.predictions import predict_split
    from zoo.evaluation.report import report_columns
    from zoo.training.pipeline import Pipeline

    device = resolve_device("auto")
    model, rows = loaded.model.to(device), data.split(split)
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        tell({"at": f"measuring {split} again, {done:,} of {len(rows):,} samples"})

    progress(0)
    pipeline = Pipeline(model.backbone, loaded.input, device)
    predicted = predict_split(model, rows, pipeline, workers=None, progress=progress)
    report = report_columns(loaded.document.columns, predicted, rows)
    recorded = loaded.document.metrics[split]
    wrong = proof.differing(recorded, report.metrics, report.samples)
    if wrong:
        name = wrong[0]
        raise IntegrityError(
            f"{loaded.name}: a fresh process measures {name} {report.metrics[name]:.4f} on {split}, "
            f"recorded is {recorded[name]:.4f}",
            hint="were files of the data changed since? --no-metrics publishes the numbers as not proved",
        )
    tell({"say": f"measured {split} again: {report.samples:,} samples, the same metrics"})
    return {name: report.metrics[name] for name in recorded if name in report.metrics}


if __name__ == "__main__":
    sys.exit(serve(work))
