"""How commands print: tables for people, JSON for machines, one line a broken plugin on stderr."""

from __future__ import annotations

import functools
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from zoo_registry import Registry

_NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?[kMG%]?")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, text for people on stderr.")
hub_option = click.option(
    "--hub", metavar="HUB", envvar="ZOO_HUB", help="A hub's URL or a folder; the Hugging Face Hub by default."
)
offline_option = click.option("--offline", is_flag=True, help="Use what is cached, connect nowhere.")
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")


def locked_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--locked``: while the command runs, hubs give what ``zoo.lock`` has and nothing else."""

    @functools.wraps(command)
    def held(*args: Any, locked: bool, **options: Any) -> Any:
        if not locked:
            return command(*args, **options)
        from zoo.lock import only_locked

        with only_locked():
            return command(*args, **options)

    return click.option("--locked", is_flag=True, help="Take from hubs only what zoo.lock has, to the byte.")(held)


def open_registry() -> Registry:
    """The installed plugins; each broken one is named in one line on stderr."""
    from zoo_registry import Registry

    registry = Registry()
    for problem in registry.problems:
        click.echo(f"warning: {problem}", err=True)
    return registry


def say(text: str = "", *, as_json: bool = False, bold: bool = False) -> None:
    """A line for a person: on stdout, or on stderr where stdout carries JSON."""
    click.echo(click.style(text, bold=True) if bold else text, err=as_json)


def emit(value: Any, as_json: bool, human: Callable[[], None]) -> None:
    """Print ``value`` as JSON, or call ``human``."""
    if as_json:
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        human()


def table(rows: Sequence[Sequence[str]], header: Sequence[str], *, err: bool = False) -> None:
    """Aligned columns; on a terminal the last one is cut to the width. Numbers are aligned to the right."""
    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    widths = [max(map(len, (name, *column))) for name, column in zip(header, columns, strict=True)]
    stream = sys.stderr if err else sys.stdout
    limit = shutil.get_terminal_size((100, 24)).columns if stream.isatty() else 10_000
    sides = [">" if column and all(map(_is_number, column)) else "<" for column in columns]
    layout = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))

    def line(row: Sequence[str]) -> str:
        text = layout.format(*row).rstrip()
        return text if len(text) <= limit else text[: limit - 1] + "…"

    output = [click.style(line(header), bold=True), *(line(row) for row in rows)]
    click.echo("\n".join(output), err=err)


def short_number(value: float | None) -> str:
    """``11.7M``, ``350k``; empty where unknown."""
    if value is None:
        return ""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"


def one_line(text: str) -> str:
    """The text in one line; what a terminal would obey rather than show (names come from outside) becomes ``?``."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def lines(text: str) -> str:
    """A text of several lines as :func:`one_line` makes one: nothing in it is obeyed by a terminal."""
    return "\n".join("".join(c if c.isprintable() or c == "\t" else "?" for c in line) for line in text.split("\n"))


def counted(number: int, noun: str) -> str:
    """``1 epoch``, ``3 epochs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def quoted(path: object) -> str:
    """A path as it may be pasted into a shell."""
    return shlex.quote(str(path))


def _is_number(text: str) -> bool:
    return not text or _NUMBER.fullmatch(text) is not None
