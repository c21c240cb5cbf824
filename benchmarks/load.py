"""A load generator that measures the time of each answer."""

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import gevent
from gevent import socket

# gunicorn's processes share connections out by chance: new connections keep a round from hanging on one draw.
_REQUESTS_PER_CONNECTION = 100
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The answers of one round. per_s: answers a second. times_s: time of each answer, sorted."""

    per_s: float
    times_s: list[float]

    def percentile_s(self, percent: float) -> float:
        """Return the time within which this percentage was answered, in seconds."""
        return self.times_s[min(len(self.times_s) - 1, int(len(self.times_s) * percent / 100))]


def send_for(port: int, requests: Iterable[bytes], *, connections: int, seconds: float) -> LoadResult:
    """Send over several connections for some seconds; each waits for its answer.

    Raises AssertionError for any answer but 200.
    """
    started = time.perf_counter()
    times_s: list[float] = []
    deadline = started + seconds
    senders = [gevent.spawn(_send_until, port, iter(requests), deadline, times_s) for _ in range(connections)]
    gevent.joinall(senders, raise_error=True)
    return LoadResult(len(times_s) / (time.perf_counter() - started), sorted(times_s))


def send_all(port: int, requests: Sequence[bytes], *, connections: int) -> None:
    """Send every request once, over several connections; otherwise as `send_for`."""
    remaining = iter(requests)
    senders = [gevent.spawn(_send_remaining, port, remaining) for _ in range(connections)]
    gevent.joinall(senders, raise_error=True)


def _send_until(port: int, requests: Iterator[bytes], deadline: float, times_s: list[float]) -> None:
    while time.perf_counter() < deadline:
        with _connect(port) as connection:
            for request in itertools.islice(requests, _REQUESTS_PER_CONNECTION):
                started = time.perf_counter()
                connection.sendall(request)
                _read_answer(connection)
                times_s.append(time.perf_counter() - started)
                if started > deadline:
                    break


def _send_remaining(port: int, requests: Iterator[bytes]) -> None:
    with _connect(port) as connection:
        for request in requests:
            connection.sendall(request)
            _read_answer(connection)


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _read_answer(connection: socket.socket) -> None:
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _receive(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), answer
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(body) < length:
        body += _receive(connection)


def _receive(connection: socket.socket) -> bytes:
    part: bytes = connection.recv(65536)
    assert part, "the connection was closed before the whole answer"
    return part
