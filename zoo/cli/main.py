"""The ``zoo`` command: subcommands are imported when they are called, and errors become one line in one place."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import signal
import sys
from typing import Any

import click
from zoo_registry.errors import UsageError, ZooError, did_you_mean

import zoo
from zoo.cli.output import one_line

COMMANDS = {
    "list": ("zoo.cli.listing", "list_command", "List backbones, heads, strategies, plugins, models and more."),
    "show": ("zoo.cli.showing", "show", "Show everything known of one backbone, head, strategy or model."),
    "finetune": ("zoo.cli.finetune", "finetune", "Fine-tune a backbone on data and write a bundle."),
    "evaluate": ("zoo.cli.evaluate", "evaluate", "Measure a model on data."),
    "predict": ("zoo.cli.predict", "predict", "Predict files."),
    "card": ("zoo.cli.card", "card", "Write the model card of a run, with your own section kept."),
    "diff": ("zoo.cli.diff", "diff", "Show what differs between two models."),
    "verify": ("zoo.cli.verify", "verify", "Verify a model's files and logits without a network."),
    "push": ("zoo.cli.publish", "push", "Publish a run or bundle to a hub."),
    "pull": ("zoo.cli.publish", "pull", "Get a published model from a hub."),
    "export": ("zoo.cli.export", "export", "Write a model as one file for another runtime (ONNX, torch.export)."),
    "plugin": ("zoo.cli.plugin", "plugin", "List, check and make plugins."),
    "demo": ("zoo.cli.demo", "demo", "The whole job on handwritten digits, in two minutes and without a network."),
}

LOOKING = ("list", "show", "plugin")
"""Commands that only look things up; they ask for :mod:`zoo.cli.notices` where they look on a hub."""

TOKEN_OPTIONS = ("--token", "--hf-token", "--api-key", "--password")
"""Options that nobody offers and some try."""

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage, option or name, 3 data refused, 4 hub unreachable or not cached, "
    "5 integrity, 6 conflict, 7 broken or missing plugin, 8 run stopped (resumable), 130/143 interrupted."
)


class LazyGroup(click.Group):
    """A group whose subcommands are imported when they are called; ``--help`` of the group imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a new user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one subcommand."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        if cmd_name not in LOOKING:
            from zoo.cli.notices import show_warnings

            show_warnings()
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click's, but a mistyped command names the closest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise UsageError(
                f"unknown command {args[0]!r}", hint=did_you_mean(args[0], COMMANDS) or "zoo --help lists the commands"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, from the summaries above."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EXIT_CODES,
)
@click.version_option(zoo.__version__, prog_name="zoo")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Pick a pretrained backbone, put a head on it, choose how it learns, prove it, publish it.

    \b
    Example:
      zoo demo
      zoo list backbones "resnet*"
      zoo finetune photos/ --backbone resnet18 --strategy linear:3,full:10 --out run
    """


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and exit. The one place where errors become a line and an exit code."""
    try:
        code = main(list(sys.argv[1:] if arguments is None else arguments))
    except Exception as error:  # of --debug
        import traceback

        from zoo.hub.hf_errors import mask

        click.echo(mask("".join(traceback.format_exception(error))), err=True, nl=False)
        code = getattr(error, "exit_code", 1)
    sys.exit(code)


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    as_json = "--json" in arguments
    try:
        code = cli.main(args=arguments, prog_name="zoo", standalone_mode=False)
    except (ZooError, click.ClickException, click.Abort, KeyboardInterrupt, OSError, MemoryError) as error:
        if debug:
            raise
        return _report(error, as_json)
    except Exception as error:  # a bug, or a plugin's: still one line, and how to see more
        if debug:
            raise
        message = f"{type(error).__name__}: {error}"
        return _say("failed", message, "run it again with --debug for the traceback", 1, as_json)
    return code if isinstance(code, int) else 0


def _report(error: BaseException, as_json: bool) -> int:
    if isinstance(error, ZooError):
        return _say(error.kind, error.message, error.hint, error.exit_code, as_json)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return 2
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f"{context.command_path} --help" if context else "zoo --help"
        if getattr(error, "option_name", None) in TOKEN_OPTIONS:
            hint = "no command takes a token, others could read it there: set HF_TOKEN, or hf auth login"
        return _say("usage", error.format_message().rstrip("."), hint, 2, as_json)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return _say("interrupted", "interrupted", None, 128 + signal.SIGINT, as_json)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `zoo list | head` is no error
        return 0
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return _say("run-stopped", f"the disk is full: {error.filename or error}", "free some room", 8, as_json)
    if isinstance(error, MemoryError):
        return _say("run-stopped", "out of memory", "a smaller --batch-size", 8, as_json)
    assert isinstance(error, OSError)
    where = f"{error.filename!r}: " if error.filename else ""
    return _say("failed", f"{where}{error.strerror or error}", None, 1, as_json)


def _say(kind: str, message: str, hint: str | None, code: int, as_json: bool) -> int:
    from zoo.hub.hf_errors import mask

    message, hint = one_line(mask(message)), one_line(mask(hint)) if hint else None
    with contextlib.suppress(OSError):  # nobody reads it any more
        if as_json:
            click.echo(json.dumps({"error": {"kind": kind, "message": message, "hint": hint}}))
        click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True)
        if hint:
            click.echo(f"hint: {hint}", err=True)
    return code
