"""Sends signed deliveries as fast as they are answered, and takes the time of each."""

import hashlib
import hmac
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import gevent
from gevent import socket

from app.simulator.sample_records import make_record
from tests.support.web_process import SECRET

# gunicorn's processes share connections out by chance: no turn is to be decided by one throw of the dice.
_RENEWED_AFTER = 100


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What came of it. per_s: answers a second. times_s: of each answer, sorted."""

    per_s: float
    times_s: list[float]

    def percentile(self, percent: float) -> float:
        """Return the time within which so many of a hundred were answered, in seconds."""
        return self.times_s[min(len(self.times_s) - 1, int(len(self.times_s) * percent / 100))]


class Requests:
    """Requests without end, each with another id, of so many records of about 1 KB.

    The id comes last, so that the signature of all before it is made once: the sender shares the machine.
    """

    _numbers = itertools.count(time.time_ns())

    def __init__(self, path: str, records: int) -> None:
        made = [make_record("crm/contacts", "account", index, "1") for index in range(records)]
        payload = {"resource": "crm/contacts", "method": "list", "sync_job_run_id": "r", "records": made}
        text = json.dumps({"event": "sync_job_run:record", "payload": payload}, ensure_ascii=False)
        self._begin = text[:-1].encode()
        self._signed = hmac.new(SECRET.encode(), self._begin, hashlib.sha256)
        self._path = path

    def bodies(self) -> Iterator[bytes]:
        """Yield the bodies alone."""
        for request in self:
            yield request.partition(b"\r\n\r\n")[2]

    def __iter__(self) -> Iterator[bytes]:
        while True:
            end = f', "id": "{next(self._numbers)}"}}'.encode()
            mac = self._signed.copy()
            mac.update(end)
            head = (
                f"POST {self._path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"X-Truto-Signature: format=sha256,v={mac.hexdigest()}\r\n"
                # As other receivers expect it.
                f"X-Hub-Signature-256: sha256={mac.hexdigest()}\r\n"
                f"Content-Length: {len(self._begin) + len(end)}\r\n\r\n"
            )
            yield head.encode() + self._begin + end


def send(port: int, requests: Requests, *, connections: int, seconds: float) -> LoadResult:
    """Send over so many connections for so long; each waits for its answer. Anything but a 200 raises."""
    began = time.perf_counter()
    times: list[float] = []
    senders = [gevent.spawn(_send, port, iter(requests), began + seconds, times) for _ in range(connections)]
    gevent.joinall(senders, raise_error=True)
    return LoadResult(len(times) / (time.perf_counter() - began), sorted(times))


def send_all(port: int, requests: Sequence[bytes], *, connections: int) -> None:
    """Send each of these once, over so many connections; else as `send`."""
    left = iter(requests)
    senders = [gevent.spawn(_send_rest, port, left) for _ in range(connections)]
    gevent.joinall(senders, raise_error=True)


def _send(port: int, requests: Iterator[bytes], until: float, times: list[float]) -> None:
    while time.perf_counter() < until:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for request in itertools.islice(requests, _RENEWED_AFTER):
                began = time.perf_counter()
                connection.sendall(request)
                _read_answer(connection)
                times.append(time.perf_counter() - began)
                if began > until:
                    break


def _send_rest(port: int, requests: Iterator[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request in requests:
            connection.sendall(request)
            _read_answer(connection)


def _read_answer(connection: socket.socket) -> None:
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), answer
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(body) < length:
        body += connection.recv(65536)
