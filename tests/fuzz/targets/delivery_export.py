"""Fuzz target: a file of exported deliveries, plain or compressed."""

import io
from datetime import UTC
from typing import cast

from app.replay.importer import UnreadableLine, read_numbered_lines
from app.store.delivery_export import ExportedDelivery, read_line, write_line
from app.truto.events import Envelope

_MAX_LINE_BYTES = 4096
# A short compressed file can have millions of lines.
_MAX_LINES = 200


def check(content: bytes) -> None:
    """Check that each line of a file is a delivery, another line, or has a reason.

    content: the file. A delivery that is exported again is read as the same one. Lines are bounded.
    """
    source = cast("io.BufferedReader", io.BufferedReader(io.BytesIO(content)))
    last = 0
    for number, line in read_numbered_lines(source, max_line_bytes=_MAX_LINE_BYTES):
        assert number > last, "the numbers of the lines do not rise"
        last = number
        if isinstance(line, UnreadableLine):
            assert line.reason
        else:
            _check_line(line)
        if number > _MAX_LINES:
            break


def _check_line(line: bytes) -> None:
    assert len(line) <= _MAX_LINE_BYTES, "the line is too long"
    try:
        delivery = read_line(line)
    except ValueError as error:
        assert len(str(error)) < 200, "the reason is too long"
        return
    if delivery is None:
        return
    assert delivery.received_at.tzinfo is UTC
    exported = ExportedDelivery(
        delivery.id, delivery.received_at, Envelope(), "pending", "", body=delivery.body
    )
    assert read_line(write_line(exported)) == delivery, "the export differs"
