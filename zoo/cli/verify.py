"""``zoo verify``."""

from __future__ import annotations

import click

from zoo.cli.output import (
    counted,
    emit,
    hub_option,
    json_option,
    locked_option,
    one_line,
    open_registry,
    say,
    short_number,
)


@click.command()
@click.argument("model")
@click.option("--files", "files_only", is_flag=True, help="Check the bytes alone, load nothing.")
@hub_option
@locked_option
@json_option
def verify(model: str, files_only: bool, hub: str | None, as_json: bool) -> None:
    """Verify MODEL without a network: the sha256 of every file, then the golden logits.

    MODEL is a run folder, a bundle folder, or owner/name[@revision] that was pulled before (of a folder hub: that was
    published there). What could not be proved on this machine, such as for want of a plugin, is said.

    \b
    Example:
      zoo verify run
      zoo verify me/flowers@v1
      zoo verify me/flowers --hub hub/ --locked
    """
    registry = open_registry()
    from zoo.verifying import verify_model

    found = verify_model(model, registry, hub=hub, logits=not files_only)

    def human() -> None:
        at = f" at {found.revision[:12]}" if found.revision else ""
        size = short_number(sum(file.size for file in found.files))
        say(f"{one_line(found.name)}{at}: {counted(len(found.files), 'file')} whole, {size}B")
        if found.difference is not None:
            say(f"golden logits reproduced, largest difference {found.difference:.2g}")
        else:
            say(f"not proved: {one_line(found.not_proved or '')}")
        say(str(found.path))

    emit(found.to_json(), as_json, human)
