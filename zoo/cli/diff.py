"""``zoo diff``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.output import (
    counted,
    emit,
    hub_option,
    json_option,
    offline_option,
    one_line,
    open_registry,
    say,
    short_number,
    table,
)

if TYPE_CHECKING:
    from zoo.comparing.documents import Change
    from zoo.comparing.models import Difference
    from zoo.comparing.tensors import Block, TensorChanges

LONGEST = 40
"""Characters of a value that are shown."""


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@hub_option
@offline_option
@json_option
def diff(a: str, b: str, hub: str | None, offline: bool, as_json: bool) -> None:
    """Show what differs between models A and B: parts, recipe, data, metrics and tensors.

    A and B are run folders, bundle folders, or owner/name[@revision] on a hub. Tensors are compared one by one, by
    their names; "relative" is the length of the difference divided by the length of A's tensors, of a whole block.

    \b
    Example:
      zoo diff runs/1 runs/2
      zoo diff me/flowers@v1 me/flowers --hub hub/
    """
    registry = open_registry()
    from zoo.comparing.models import compare

    found = compare(a, b, registry, hub=hub, offline=offline)
    emit(found.to_json(), as_json, lambda: _print(found))


def _print(found: Difference) -> None:
    say(f"A  {one_line(found.a.words())}", bold=True)
    say(f"B  {one_line(found.b.words())}", bold=True)
    foreign = [side.name for side in (found.a, found.b) if side.document is None]
    if foreign:
        say(f"{one_line(foreign[0])} has no zoo.json, so tensors alone are compared")
    elif found.same:
        say(f"the same: recipe, data, metrics and {counted(found.tensors.same, 'tensor')}")
        return
    for title in ("parts", "recipe", "data"):
        _print_changes(title, getattr(found, title))
    _print_metrics(found)
    _print_tensors(found.tensors)


def _print_changes(title: str, rows: Sequence[Change]) -> None:
    if not rows:
        return
    say()
    table([[one_line(row.key), _cell(row.a), _cell(row.b)] for row in rows], [title, "A", "B"])


def _print_metrics(found: Difference) -> None:
    rows = [row for row in found.metrics if row.a != row.b]
    if not found.metrics:
        return
    say()
    if not rows:
        say(f"metrics: {counted(len(found.metrics), 'value')}, all the same")
        return
    cells = [
        [f"{row.split}.{row.name}", _number(row.a), _number(row.b), _signed(row.change)]
        for row in rows
    ]  # fmt: skip
    table([[one_line(cell) for cell in row] for row in cells], ["metrics", "A", "B", "B - A"])


def _print_tensors(found: TensorChanges) -> None:
    say()
    words = [f"{found.changed} changed", f"{found.same} equal"]
    words += [f"{len(rows)} {what}" for rows, what in _others(found) if rows]
    say(f"tensors: {', '.join(words)}")
    if found.changed:
        blocks = [*found.blocks.values(), found.total()]
        table([_block_cells(block) for block in blocks], ["block", "tensors", "changed", "elements", "relative"])
    for rows, what in _others(found):
        if rows:
            say(f"{what}: {one_line(', '.join(rows[: LONGEST // 4]))}" + (", ..." if len(rows) > LONGEST // 4 else ""))
    if found.largest:
        say("most: " + ", ".join(f"{one_line(name)} {value:.3g}" for name, value in found.largest[:3]))


def _others(found: TensorChanges) -> list[tuple[list[str], str]]:
    shaped = [f"{name} {a} -> {b}" for name, (a, b) in found.reshaped.items()]
    return [(shaped, "of another shape or type"), (found.only_a, "only in A"), (found.only_b, "only in B")]


def _block_cells(block: Block) -> list[str]:
    relative = "" if not block.changed else "new" if block.relative is None else f"{block.relative:.3g}"
    return [one_line(block.name), str(block.tensors), str(block.changed), short_number(block.elements), relative]


def _cell(value: Any) -> str:
    text = "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return one_line(text if len(text) <= LONGEST else text[: LONGEST - 3] + "...")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"
