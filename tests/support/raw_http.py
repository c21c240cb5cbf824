"""Requests and responses of HTTP/1.1 as raw bytes, well-formed or not."""

import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

_RECEIVE_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class RawResponse:
    """One response. http_status: 0 for bytes that are no response."""

    http_status: int
    body: bytes


def send_raw(port: int, sent: bytes, *, piece_bytes: int = 0) -> list[RawResponse]:
    """Send bytes on a new connection, and the end after them; return all final responses.

    piece_bytes: the size of each packet, 0 for all bytes at once.
    """
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=_RECEIVE_TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        step = piece_bytes or len(sent)
        # The receiver may close before it has read all of them.
        with suppress(OSError):
            for start in range(0, len(sent), step):
                connection.sendall(sent[start : start + step])
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while part := connection.recv(65536):
                received += part
    return read_responses(received)


def read_responses(received: bytes) -> list[RawResponse]:
    """Return the responses in bytes, without those of 1xx. Bytes that are none become a last one."""
    responses: list[RawResponse] = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        if not line.startswith(b"HTTP/1."):
            return [*responses, RawResponse(0, received)]
        status, length = int(line.split()[1]), _read_length(fields)
        if status >= 200:
            responses.append(RawResponse(status, rest[:length]))
        received = rest[length:]
    return responses


def _read_length(fields: Sequence[bytes]) -> int:
    for field in fields:
        name, _, value = field.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
