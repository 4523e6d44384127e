"""``zoo card``."""

from __future__ import annotations

from pathlib import Path

import click
from zoo_registry import UsageError

from zoo.cli.output import emit, json_option, lines, quoted, say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--print", "show", is_flag=True, help="Print the card and write nothing.")
@click.option("--notes", metavar="FILE", help="Text for the hand-written section; - reads standard input.")
@click.option("--against", multiple=True, type=click.Path(path_type=Path), metavar="RUN", help="A run to compare with.")
@click.option("--license", metavar="ID", help="The model's licence: an id of the Hub, or other:NAME.")
@click.option("--force", is_flag=True, help="Write anew what was edited outside of the hand-written section.")
@json_option
def card(
    run: Path, show: bool, notes: str | None, against: tuple[Path, ...], license: str | None, force: bool, as_json: bool
) -> None:
    """Write the model card (README.md) of RUN, a run or bundle folder, and bring its manifest up to date.

    What stands between the two markers in README.md is yours and stays, and so does metadata of your own. zoo push
    writes the card as well, with the repo's name.

    --against measures the transfer gain: RUN beside a run on the same data from scratch (zoo finetune --no-pretrained).

    \b
    Example:
      zoo card run --print
      zoo card run --notes about.md
      zoo card run --against scratch
      zoo card run --license cc-by-4.0
    """
    from zoo.cards import card_json, render, renew
    from zoo.publishing import bundle_folder, check_folder

    folder = bundle_folder(run)
    hand = None
    if notes is not None:
        try:
            with click.open_file(notes, encoding="utf-8") as file:
                hand = file.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "no UTF-8 text"
            raise UsageError(f"--notes {notes!r}: {reason}", hint="a text file, or - for standard input") from error
    check_folder(folder)
    rendered = render(folder, license=license, hand=hand, against=against, force=force)
    for line in rendered.licence.lines:
        click.echo(line, err=True)
    if rendered.licence.conflict:
        click.echo(f"licence: {rendered.licence.conflict}; --license ID says which one holds", err=True)
    if rendered.edited:
        click.echo(
            "README.md was edited outside of its hand-written section: its text stays, the metadata is renewed "
            "(--force writes all but that section anew)",
            err=True,
        )
    if rendered.changed and not show:
        renew(folder, rendered)

    def human() -> None:
        if show:
            say(lines(rendered.text.rstrip()))
            return
        say(f"{folder / 'README.md'}: {'written' if rendered.changed else 'as it should be'}")
        say(f"next: zoo push {quoted(run)} OWNER/NAME --dry-run")

    emit(card_json(folder, rendered), as_json, human)
