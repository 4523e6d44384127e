"""The Python API of models that are there: load, evaluate, predict, export, publish, get, compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_registry import Registry

if TYPE_CHECKING:
    from zoo.bundle.read import LoadedModel
    from zoo.comparing.models import Difference
    from zoo.evaluation.report import Report
    from zoo.exporting.exporting import ExportResult
    from zoo.hub.base import Pulled, Pushed
    from zoo.prediction import PredictedFile
    from zoo.verifying import Verified


def load(
    model: str | Path,
    *,
    device: str = "cpu",
    hub: str | None = None,
    offline: bool = False,
    registry: Registry | None = None,
) -> LoadedModel:
    """Load a bundle folder, a run folder, or ``owner/name[@revision]`` from a hub; in evaluation mode."""
    from zoo.devices import resolve_device
    from zoo.models import load_model

    return load_model(str(model), registry or Registry(), device=resolve_device(device), hub=hub, offline=offline)


def evaluate(
    model: LoadedModel | str | Path,
    data: Any,
    *,
    split: str | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    device: str = "auto",
    hub: str | None = None,
    offline: bool = False,
    **options: Any,
) -> Report:
    """Measure a model on data: every readable sample exactly once, classes held to the model's by name.

    ``workers`` decode; None decides by timing the first batches.
    """
    from zoo.models import evaluate_model

    loaded = load(model, device=device, hub=hub, offline=offline) if isinstance(model, str | Path) else model
    return evaluate_model(loaded, data, split=split, batch_size=batch_size, workers=workers, **options)


def predict(
    model: LoadedModel | str | Path, files: str | Path | Sequence[str | Path], **options: Any
) -> list[PredictedFile]:
    """Predict files and folders of files; all rows at once. The arguments are those of :func:`predict_stream`."""
    return list(predict_stream(model, files, **options))


def predict_stream(
    model: LoadedModel | str | Path,
    files: str | Path | Iterable[str | Path],
    *,
    top: int = 1,
    batch_size: int = 64,
    workers: int | None = None,
    device: str = "auto",
    hub: str | None = None,
    offline: bool = False,
) -> Iterator[PredictedFile]:
    """Predict files one after the other; each row comes as soon as it is known, so that a million take no memory.

    Args:
        model: a loaded model, or what :func:`load` takes.
        files: files, folders, patterns and ``@list.txt``, or an iterator of paths that is read as it goes.
        top: classes of each file.
        batch_size: files at once.
        workers: processes that decode; None decides by timing the first batches.
        device, hub, offline: where the model goes and comes from.

    Raises:
        ZooError: see :func:`zoo.prediction.predict_files`.
    """
    from zoo.prediction import predict_files

    loaded = load(model, device=device, hub=hub, offline=offline) if isinstance(model, str | Path) else model
    yield from predict_files(loaded, files, top=top, batch_size=batch_size, workers=workers)


def export(
    model: LoadedModel | str | Path,
    to: str = "onnx",
    *,
    out: str | Path | None = None,
    pixels: bool = False,
    probabilities: bool = False,
    hub: str | None = None,
    offline: bool = False,
) -> ExportResult:
    """Write a model as one file for another runtime; see :func:`zoo.exporting.exporting.export_model`.

    Args:
        model: a loaded model, or what :func:`load` takes.
        to: ``onnx`` or ``torch-export``.
        out: a new folder; ``NAME-FORMAT`` by default.
        pixels: the file takes uint8 pixels and normalises them itself.
        probabilities: the file gives probabilities, not logits.
        hub, offline: where a model comes from.

    Returns:
        ``.file``, the model, and ``.record``, what ``export.json`` beside it says.
    """
    from zoo.exporting.exporting import default_folder, export_model, prepare_export

    if isinstance(model, str | Path):
        folder = Path(out) if out is not None else default_folder(str(model), to)
        prepare_export(to, folder)
        loaded = load(model, hub=hub, offline=offline)
    else:
        folder, loaded = Path(out) if out is not None else default_folder(str(model.path), to), model
        if next(loaded.model.parameters()).device.type != "cpu":
            loaded = load(loaded.path)
    return export_model(loaded, to, folder, pixels=pixels, probabilities=probabilities)


def push(
    run: str | Path,
    name: str,
    *,
    hub: str | None = None,
    private: bool = True,
    parent: str | None = None,
    delta: bool = False,
    tag: str | None = None,
    metrics: bool = True,
    license: str | None = None,
    deadline: float | None = None,
) -> Pushed:
    """Publish a run's (or a bundle's) model under ``owner/name``; it is loaded in a fresh process first and must
    reproduce its golden logits and, with ``metrics`` and where the run's data is still there, its metrics. With
    ``delta`` only what differs from the base weights is stored. ``tag`` names the revision, such as ``v1``, and is
    never moved. ``license`` stands in place of that of the base weights; what is to be known of it is logged.
    ``deadline``: seconds for all waiting for the hub.
    """
    import logging

    from zoo.publishing import publish

    def told(line: str) -> None:
        logging.getLogger("zoo").log(logging.WARNING if line.startswith("licence") else logging.INFO, "%s", line)

    wanted: dict[str, Any] = {"private": private, "parent": parent, "delta": delta, "tag": tag, "license": license}
    return publish(Path(run), name, hub=hub, metrics=metrics, deadline=deadline, told=told, **wanted)


def pull(name: str, *, hub: str | None = None, offline: bool = False, lock: str | Path | None = None) -> Pulled:
    """Get ``owner/name[@revision]`` from a hub, verified against its manifest; returns where it lies, whole.

    ``lock``: a ``zoo.lock`` to take it into, whatever that had before.
    """
    from zoo.models import pull_model

    return pull_model(name, hub=hub, offline=offline, lock=Path(lock) if lock is not None else None)


def verify(model: str | Path, *, hub: str | None = None, logits: bool = True) -> Verified:
    """Check every byte and, with ``logits``, the golden logits of a run, a bundle or a pulled model; no network."""
    from zoo.verifying import verify_model

    return verify_model(str(model), Registry(), hub=hub, logits=logits)


def diff(a: str | Path, b: str | Path, *, hub: str | None = None, offline: bool = False) -> Difference:
    """What differs between two models: parts, recipe, data, metrics, and how far each block's tensors moved."""
    from zoo.comparing.models import compare

    return compare(str(a), str(b), Registry(), hub=hub, offline=offline)
