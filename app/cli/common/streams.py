"""Encoding and colors of standard output and error, and failures to write to them."""

import errno
import io
import os
import sys
from contextlib import suppress
from typing import NoReturn, TextIO

import click

# A full disk or a closed descriptor. A closed pipe is silent, as in every program.
_OUTPUT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


def escape_unencodable() -> None:
    """Print an escape for each character that the encoding of the terminal lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_color_refused() -> bool:
    """Whether a terminal must not get colors; see `app.config.settings.is_color_refused`."""
    # click prints no colors to anything else. The settings are loaded late, because they cost 0.1 s.
    if not any(stream.isatty() for stream in filter(None, (sys.stdout, sys.stderr))):
        return False
    from app.config import settings  # noqa: PLC0415

    return settings.is_color_refused()


def describe_os_error(error: OSError) -> str | None:
    """Return a message for an error of a file or of the output; None for any other error."""
    reason = error.strerror or type(error).__name__
    if isinstance(error.filename, str | bytes):
        path = os.fsdecode(error.filename)
        return f"{path}: {reason}. Check the path, its permissions and the free space of its disk."
    if error.errno == errno.ENOENT:
        return "The working folder does not exist any more. Change to another one: cd"
    if error.errno in _OUTPUT_ERRORS:
        return f"The output cannot be written: {reason}. Free some space, or write to another place."
    return None


def exit_with_error(message: str) -> NoReturn:
    """Print a message to standard error, if it can be written, and exit with code 1."""
    with suppress(OSError):
        click.echo(message, err=True)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        discard_output(stream)
    sys.exit(1)


def discard_output(stream: TextIO) -> None:
    """Discard the text that a stream still holds, because writing it at exit would fail again."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
