"""Standard output or a private file, opened for the bytes of an export."""

import errno
import gzip
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, BinaryIO, cast

import click

from app.cli.common.streams import discard_output


@contextmanager
def open_standard_output() -> Iterator[BinaryIO]:
    """Open standard output for bytes. Ends the process with exit code 1 if the reader has closed the pipe."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        discard_output(sys.stdout)
        sys.exit(1)


@contextmanager
def open_output(target: str, *, force: bool) -> Iterator[IO[bytes]]:
    """Open a file that gets its name once it is complete; "-" is standard output.

    A name that ends in .gz is compressed. force: overwrite an existing file. Raises click.UsageError.
    """
    if target == "-":
        with open_standard_output() as file:
            yield file
        return
    path = Path(target)
    try:
        _check_target(path, force=force)
        with _open_private_file(path) as raw, _wrap_gzip(raw, path) as file:
            yield file
    except OSError as error:
        raise click.UsageError(f"{target} cannot be written: {error.strerror or error}.") from error


def _check_target(path: Path, *, force: bool) -> None:
    if path.exists() and not path.is_file():
        # Replacing a device or a pipe would remove it.
        raise click.UsageError(f"{path} is not a file: choose another name, or - for standard output.")
    if path.exists() and not force:
        raise click.UsageError(f"{path} exists: choose another name, or overwrite it with --force.")


@contextmanager
def _open_private_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file that only its owner can read, and rename it to the path if all goes well.

    Its random name cannot be foreseen, so no file or link that another user placed there is opened.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".export-", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _wrap_gzip(raw: IO[bytes], path: Path) -> AbstractContextManager[IO[bytes]]:
    if path.suffix != ".gz":
        return nullcontext(raw)
    return cast(IO[bytes], gzip.GzipFile(path.stem, "wb", compresslevel=6, fileobj=raw))
