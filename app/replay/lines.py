"""The lines of a file of deliveries, however long it is: plain or gzip, sound or cut off."""

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

_GZIP_MAGIC = b"\x1f\x8b"


class UnreadableLine(Exception):
    """A line that is not there as a whole; its message says why."""


def read_numbered_lines(
    source: BinaryIO, *, max_line_bytes: int
) -> Iterator[tuple[int, bytes | UnreadableLine]]:
    """Yield (number, line) of each line that is not blank, without its end; from 1 on.

    longest: in bytes; of a longer line, only that is told. What breaks off is told in place of its last line.
    """
    number = 0
    try:
        plain = _open_plain(source)
        while line := plain.readline(max_line_bytes + 2):
            number += 1
            text = line.rstrip(b"\r\n")
            if len(text) > max_line_bytes:
                _skip_line(plain, line)
                yield number, UnreadableLine(f"longer than {max_line_bytes:,} bytes")
            elif text.strip():
                yield number, text
    except (EOFError, zlib.error, OSError) as error:
        message = "the file breaks off here" if isinstance(error, EOFError) else "the file is damaged here"
        yield number + 1, UnreadableLine(message)


def _open_plain(file: BinaryIO) -> BinaryIO:
    begins = cast("io.BufferedReader", file).peek(2)[:2]
    return cast("BinaryIO", gzip.GzipFile(fileobj=file)) if begins == _GZIP_MAGIC else file


def _skip_line(file: BinaryIO, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = file.readline(1 << 20)
