"""Text that fits the terminal: facts with a hanging indent, tables whose cells wrap."""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

import click

from zoo.cli.output import one_line

UNLIMITED = 10_000


def width(*, err: bool = False) -> int:
    """Columns of the terminal; nothing is wrapped where the output is none, so that lines can be searched."""
    stream = sys.stderr if err else sys.stdout
    return max(40, shutil.get_terminal_size((100, 24)).columns) if stream.isatty() else UNLIMITED


def facts(rows: Iterable[tuple[str, str]], *, indent: int = 0, key_width: int = 9, err: bool = False) -> None:
    """``key  value`` a row; values wrap under themselves, rows without a key go on under the one before."""
    for key, value in rows:
        start = " " * indent + one_line(key).ljust(key_width) + " "
        lines = textwrap.wrap(
            one_line(value),
            width(err=err),
            initial_indent=start,
            subsequent_indent=" " * (indent + key_width + 1),
            break_on_hyphens=False,
        )
        click.echo("\n".join(lines or [start.rstrip()]), err=err)


def grid(
    rows: Sequence[Sequence[str]],
    header: Sequence[str],
    *,
    right: Iterable[str] = (),
    fixed: Iterable[str] = (),
    indent: int = 0,
    err: bool = False,
) -> None:
    """A table; where it is wider than the terminal, cells wrap.

    Args:
        rows: of text.
        header: names of the columns.
        right: columns that are aligned to the right.
        fixed: columns that never wrap.
        indent: spaces in front.
        err: print on stderr.
    """
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for name in header:
        justify = "right" if name in right else "left"
        shown.add_column(name, justify=justify, no_wrap=name in fixed, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        shown.add_row(*(Text(one_line(cell)) for cell in row))
    text = io.StringIO()
    Console(file=text, width=width(err=err), color_system=None, legacy_windows=False).print(
        Padding(shown, (0, 0, 0, indent))
    )
    first, *lines = [line.rstrip() for line in text.getvalue().splitlines()]
    click.echo("\n".join([click.style(first, bold=True), *lines]), err=err)
