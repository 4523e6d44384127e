"""Warnings of the zoo's own modules, a line each on stderr. Apart, since logging costs listing a tenth of its time."""

from __future__ import annotations

import logging

import click

from zoo.cli.output import one_line


class Echo(logging.Handler):
    """Prints a record on stderr, as it is now (a test may have changed it)."""

    def emit(self, record: logging.LogRecord) -> None:
        """``warning: ...``; what is merely told goes without a word before it."""
        kind = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        from zoo.hub.hf_errors import mask

        click.echo(kind + one_line(mask(record.getMessage())), err=True)


def show_warnings() -> None:
    """From now on warnings are shown, and how far a long list of files is read."""
    logger = logging.getLogger("zoo")
    if not any(isinstance(handler, Echo) for handler in logger.handlers):
        logger.addHandler(Echo(logging.INFO))
        logging.getLogger("zoo.data.listing").setLevel(logging.INFO)
