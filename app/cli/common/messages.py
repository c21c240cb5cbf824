"""Messages for users, wrapped for a terminal of 80 columns."""

import re
import textwrap

import click

from app.cli.common.program import name_program

# Lines are wrapped at 79 characters, because terminals of 80 columns wrap a full line.
LINE_WIDTH = 79
# A command that is quoted, or that ends a line, stays in one piece, so that it can be pasted.
_COMMAND_PATTERN = re.compile(r"`[^`\n]*`|(?<=: )rapidbridge [^\n]*$", re.MULTILINE)
_UNBROKEN_SPACE = "\0"


def format_message(text: str, *, prefix: str = "") -> str:
    """Return a message, wrapped, with hints that run as the user called the program.

    prefix: a text that precedes the message on its first line, and is not returned.
    """
    whole_commands = _COMMAND_PATTERN.sub(
        lambda match: name_program(match[0]).replace(" ", _UNBROKEN_SPACE), prefix + text
    )
    lines = [
        wrapped
        for line in name_program(whole_commands).splitlines()
        for wrapped in textwrap.wrap(
            line, LINE_WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        or [""]
    ]
    return "\n".join(lines).replace(_UNBROKEN_SPACE, " ").removeprefix(prefix)


def print_message(text: str) -> None:
    """Print a message to standard error, wrapped, with hints that can be pasted."""
    click.echo(format_message(text), err=True)
