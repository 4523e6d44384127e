"""``zoo export``."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.output import (
    emit,
    hub_option,
    json_option,
    locked_option,
    offline_option,
    open_registry,
    quoted,
    say,
    short_number,
)


@click.command()
@click.argument("model")
@click.option(
    "--to",
    type=click.Choice(["onnx", "torch-export"]),
    default="onnx",
    show_default=True,
    help="model.onnx (opset 18) for onnxruntime and others, or model.pt2 (an ExportedProgram) for torch.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="A new folder; NAME-FORMAT by default.")
@click.option("--pixels", is_flag=True, help="The file takes uint8 pixels and normalises them itself.")
@click.option("--probabilities", is_flag=True, help="The file gives probabilities (zeros: abstained), not logits.")
@hub_option
@offline_option
@locked_option
@json_option
def export(
    model: str,
    to: str,
    out: Path | None,
    pixels: bool,
    probabilities: bool,
    hub: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Write MODEL as one file for another runtime, any batch size, checked against the model.

    MODEL is a run folder, a bundle folder, or owner/name[@revision] on a hub. Beside the file, and in its metadata,
    lies export.json: class names, transform, names and shapes of input and outputs (one for each target column).

    The file is run on the golden inputs, and at two other batch sizes; if it does not agree with the model nothing
    is written.

    \b
    Example:
      zoo export run --to onnx
      zoo export me/flowers@v1 --to torch-export --out deployed/
      zoo export run --pixels --probabilities
    """
    from zoo.exporting.exporting import default_folder, export_model, prepare_export

    folder = out if out is not None else default_folder(model, to)
    prepare_export(to, folder)
    registry = open_registry()
    from zoo.models import load_model

    loaded = load_model(model, registry, hub=hub, offline=offline)
    done = export_model(loaded, to, folder, pixels=pixels, probabilities=probabilities)
    value = {"model": model, "path": str(done.path), **done.record}

    def human() -> None:
        checked = done.record["checked"]
        say(f"{done.file}  {short_number(done.file.stat().st_size)}B")
        say(f"in   {_signature(done.record['input'])}")
        for output in done.record["outputs"]:
            say(f"out  {_signature(output)} {output['values']}")
        sizes = ", ".join(map(str, sorted(checked["batches"])))
        say(f"{checked['by']} agrees to {checked['largest_difference']:.1e} at batch sizes {sizes}")
        say(f"class names and transform: {quoted(done.path / 'export.json')}")

    emit(value, as_json, human)


def _signature(part: dict[str, object]) -> str:
    shape = part["shape"]
    assert isinstance(shape, list)
    return f"{part['name']} {part['dtype']} [{', '.join(map(str, shape))}]"
