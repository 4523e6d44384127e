"""Writes ``docs/cli/*.md`` from the commands' own ``--help``; ``--check`` says what has drifted and writes nothing.

python docs/generate_cli.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from zoo.cli.main import COMMANDS, cli

FOLDER = Path(__file__).parent / "cli"
WIDTH = 100


def pages() -> dict[str, str]:
    """File name -> content of every page."""
    found = {"index.md": _index()}
    for name in COMMANDS:
        found[f"{name}.md"] = "\n".join(_sections(name))
    return found


def help_of(path: tuple[str, ...], command: click.Command) -> str:
    """The help text of a command, as a terminal of :data:`WIDTH` columns shows it."""
    context = _context(cli, "zoo", None)
    for word in path[:-1]:
        context = _context(cli, word, context)
    return command.get_help(_context(command, path[-1], context))


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    settings = {**cli.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    return click.Context(command, info_name=name, parent=parent, **settings)


def _index() -> str:
    rows = [f"| [`zoo {name}`]({name}.md) | {summary} |" for name, (_, _, summary) in COMMANDS.items()]
    table = ["| command | what it does |", "|---|---|", *rows]
    return "\n".join(["# Commands", "", *table, "", "```text", cli.get_help(_context(cli, "zoo", None)), "```", ""])


def _sections(name: str) -> Iterator[str]:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    yield from (f"# zoo {name}", "", "```text", help_of((name,), command), "```", "")
    if isinstance(command, click.Group):
        for part in command.list_commands(click.Context(command)):
            child = command.get_command(click.Context(command), part)
            assert child is not None
            yield from (f"## zoo {name} {part}", "", "```text", help_of((name, part), child), "```", "")


def drift() -> list[str]:
    """File names that are missing, not as generated, or of no command any more."""
    wanted = pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    return sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    changed = drift()
    if arguments == ["--check"]:
        print(f"drifted: {', '.join(changed)}" if changed else "docs/cli is what --help says")
        return 1 if changed else 0
    FOLDER.mkdir(exist_ok=True)
    wanted = pages()
    for name in changed:
        path = FOLDER / name
        if name in wanted:
            path.write_text(wanted[name], encoding="utf-8")
        else:
            path.unlink()
    print(f"wrote {len(changed)} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
