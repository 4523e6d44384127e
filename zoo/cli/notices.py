"""Warnings of the zoo's own modules, a line each on stderr. Apart, since logging costs listing a tenth of its time."""

from __future__ import annotations

import logging

import click

from zoo.cli.output import one_line


class Echo(logging.Handler):
    """Prints a record on stderr, as it is now (a test may have changed it)."""

    def emit(self, record: logging.LogRecord) -> None:
        """``warning: ...``."""
        click.echo(f"{record.levelname.lower()}: {one_line(record.getMessage())}", err=True)


def show_warnings() -> None:
    """From now on warnings are shown."""
    logger = logging.getLogger("zoo")
    if not any(isinstance(handler, Echo) for handler in logger.handlers):
        logger.addHandler(Echo(logging.WARNING))
