"""Standard output or a private file, opened for the bytes of an export."""

import gzip
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

import click


@contextmanager
def open_standard_output() -> Iterator[BinaryIO]:
    """Open standard output for bytes. Ends the process with exit code 1 if the reader has closed the pipe."""
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Discard the buffered bytes: flushing them at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
    path, part = Path(target), Path(target + ".part")
    if path.exists() and not force:
        raise click.UsageError(f"{target} exists: choose another name, or overwrite it with --force.")
    try:
        with _open_private_file(part) as raw, _wrap_gzip(raw, path) as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise click.UsageError(f"{target} cannot be written: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)


def _open_private_file(path: Path) -> IO[bytes]:
    # Exports hold customers' data: only the owner may read them.
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600))


def _wrap_gzip(raw: IO[bytes], path: Path) -> IO[bytes]:
    if path.suffix != ".gz":
        return raw
    return cast(IO[bytes], gzip.GzipFile(path.stem, "wb", compresslevel=6, fileobj=raw))
