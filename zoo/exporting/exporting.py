"""From a loaded model to a folder with one file for another runtime and what a user of it must know."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from zoo_registry import ConflictError, ImageInput, PluginError, UsageError
from zoo_registry.errors import did_you_mean

if TYPE_CHECKING:
    from zoo.bundle.read import LoadedModel

FORMATS = {"onnx": "zoo.exporting.onnx_file", "torch-export": "zoo.exporting.torch_file"}
"""Name -> module with ``NAME``, ``needs()``, ``versions()`` and ``write(folder, program, module, record, where)``."""
RECORD = "export.json"


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written.

    Attributes:
        path: the folder.
        file: the model within it.
        record: the content of ``export.json``.
    """

    path: Path
    file: Path
    record: dict[str, Any]


def prepare_export(to: str, out: Path) -> ModuleType:
    """Find everything that can be wrong before a model is loaded; returns the format's module.

    Args:
        to: one of :data:`FORMATS`.
        out: where the export will go.

    Raises:
        UsageError: an unknown format, or ``out`` is called like a file.
        ConflictError: there is something already.
        PluginError: a package that the format needs is missing or broken; the hint installs it.
    """
    if to not in FORMATS:
        hint = did_you_mean(to, FORMATS) or f"one of {', '.join(FORMATS)}"
        raise UsageError(f"unknown export format {to!r}", hint=hint)
    if out.suffix in (".onnx", ".pt2"):
        raise UsageError(f"--out {str(out)!r} is called like a file", hint="give a folder; the file has company there")
    refuse_existing(out)
    found = importlib.import_module(FORMATS[to])
    for name in found.needs():
        try:
            importlib.import_module(name)
        except Exception as error:
            why = "is not installed" if isinstance(error, ModuleNotFoundError) and error.name == name else "is broken"
            raise PluginError(
                f"exporting to {to} needs {name}, which {why}", hint=f"pip install {' '.join(found.needs())}"
            ) from error
    return found


def refuse_existing(out: Path) -> None:
    """An export goes into a folder of its own.

    Raises:
        ConflictError: it is a file, or not empty.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ConflictError(f"{str(out)!r} exists and is not empty", hint="choose another --out, or remove it")


def export_model(
    loaded: LoadedModel, to: str, out: Path, *, pixels: bool = False, probabilities: bool = False
) -> ExportResult:
    """Write a model for another runtime into ``out``, which appears whole, once the file was checked, or not at all.

    The model must reproduce its golden logits first, where it has some. The file is run (onnxruntime, or torch after
    reloading) on the golden inputs and at two other batch sizes, and must agree with the model:
    ``|a - b| <= 1e-4 + 1e-3 max|b|``.

    Args:
        loaded: the model, on the CPU.
        to: one of :data:`FORMATS`.
        out: a folder that is new or empty.
        pixels: the file takes uint8 pixels and normalises them within; else normalised float32.
        probabilities: the file gives what ``zoo predict`` does; else logits.

    Returns:
        Where it lies and what ``export.json`` says.

    Raises:
        UsageError, ConflictError, PluginError: as :func:`prepare_export`; the model is fed no images.
        IntegrityError: the model is not what was published, or the file disagrees with it.
        ZooError: the model cannot be traced, or has no form in this format.
    """
    format_ = prepare_export(to, out)
    from zoo.bundle.golden import check_golden
    from zoo.exporting.program import Deployed, Form, trace
    from zoo.files import write_folder

    if not isinstance(loaded.input, ImageInput):
        raise UsageError(f"{loaded.name} is fed {loaded.input.kind}", hint="zoo export serves images so far")
    if out.resolve().is_relative_to(loaded.path.resolve()):
        raise UsageError(
            f"{str(out)!r} lies within the model's own folder", hint="a bundle holds what its manifest lists, no more"
        )
    if loaded.document.golden:  # a model of another library has none
        check_golden(loaded.model, loaded.input, loaded.document.golden, where=loaded.name)
    module = Deployed(loaded.model, loaded.input, Form(pixels=pixels, probabilities=probabilities)).eval()
    from zoo.exporting.checks import check_inputs

    program = trace(module, check_inputs(loaded.input, module.form)[0], where=loaded.name)
    record: dict[str, Any] = {}
    write_folder(out, lambda folder: record.update(_fill(folder, loaded, module, program, format_, to)))
    return ExportResult(path=out, file=out / format_.NAME, record=record)


def _fill(folder: Path, loaded: LoadedModel, module: Any, program: Any, format_: ModuleType, to: str) -> dict[str, Any]:
    """Write and check the file, then its record; returns the record."""
    from zoo.exporting.checks import check_file
    from zoo.exporting.record import describe_check, make_record
    from zoo.files import write_json
    from zoo.hub.files import sha256_of

    record = make_record(loaded, module, to, format_.NAME, format_.versions())
    run, by = format_.write(folder, program, module, json.dumps(record, ensure_ascii=False), loaded.name)
    assert isinstance(loaded.input, ImageInput)
    checked = check_file(run, by, loaded.model, module, loaded.input, where=f"{loaded.name} as {to}")
    record["checked"] = describe_check(checked)
    record["files"] = {
        path.name: {"sha256": sha256_of(path), "size": path.stat().st_size} for path in sorted(folder.iterdir())
    }
    write_json(folder / RECORD, record)
    return record


def default_folder(model: str, to: str) -> Path:
    """Where an export goes without ``--out``: ``NAME-FORMAT`` in the current folder, NAME the last part of a path's or
    repo's.
    """
    name = Path(model.rstrip("/").removeprefix("hf:").partition("@")[0] if not Path(model).exists() else model)
    return Path(f"{name.resolve().name if name.exists() else name.name}-{to}")
