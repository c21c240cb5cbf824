"""The confirmation prompt of every command that changes or deletes data."""

import sys

import click


def confirm(question: str, *, yes: bool) -> None:
    """Return if the user agrees, or passed --yes; end the command otherwise.

    The prompt goes to standard error, because standard output may be JSON. Raises click.UsageError without a
    terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("No terminal to confirm at: pass --yes to skip the prompt.")
    click.confirm(question, abort=True, err=True)
