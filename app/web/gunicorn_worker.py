"""Extensions of gunicorn's internals: a draining worker and a body reader."""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any
from wsgiref.types import WSGIEnvironment

import gevent
from gunicorn.http.body import LengthReader
from gunicorn.workers.ggevent import GeventWorker

_CHECK_INTERVAL_S = 0.2
# While all places are taken, a connection that is idle for longer is closed.
_IDLE_TIMEOUT_S = 5.0


class DrainingWorker(GeventWorker):  # type: ignore[misc]  # gunicorn is not typed
    """A gevent worker that closes idle connections at SIGTERM and if all its places are taken.

    At SIGTERM, gunicorn itself waits for idle connections as for open requests. Behind a router that keeps
    connections for 90 s, every deploy would last until the platform kills the process. If idle connections
    take all places, gunicorn accepts no other connection for up to 95 s (`keepalive`).
    """

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self._open: set[socket.socket] = set()
        # Connections between two requests, or within a request's head, by the start of that time.
        self._idle_since: dict[socket.socket, float] = {}

    def run(self) -> None:
        """Serve requests until the process is stopped."""
        gevent.spawn(self._keep_places_free)
        super().run()

    def handle(self, listener: object, client: socket.socket, address: object) -> None:
        """Serve a connection, and track when it is idle."""
        self._open.add(client)
        self._idle_since[client] = time.monotonic()
        try:
            super().handle(listener, client, address)
        finally:
            self._open.discard(client)
            self._idle_since.pop(client, None)

    def handle_request(
        self, listener_name: object, request: object, client: socket.socket, address: object
    ) -> None:
        """Serve one request."""
        self._idle_since.pop(client, None)
        try:
            super().handle_request(listener_name, request, client, address)
        finally:
            self._idle_since[client] = time.monotonic()

    def handle_exit(self, number: int, frame: FrameType | None) -> None:
        """Start a graceful shutdown, on SIGTERM."""
        super().handle_exit(number, frame)
        gevent.spawn(self._keep_idle_closed)

    def _keep_places_free(self) -> None:
        while True:
            gevent.sleep(_CHECK_INTERVAL_S)
            if len(self._open) >= self.worker_connections:
                self._close_idle(idle_for_s=_IDLE_TIMEOUT_S)

    def _keep_idle_closed(self) -> None:
        while True:
            self._close_idle(idle_for_s=0)
            gevent.sleep(_CHECK_INTERVAL_S)

    def _close_idle(self, *, idle_for_s: float) -> None:
        now = time.monotonic()
        for client, since in list(self._idle_since.items()):
            if now - since < idle_for_s:
                continue
            try:
                # A request that has arrived is still answered before the connection closes.
                client.shutdown(socket.SHUT_RD)
            except OSError:
                self._idle_since.pop(client, None)


def direct_reader(environ: WSGIEnvironment) -> Callable[[int], bytes] | None:
    """Return a function that reads a body of known length from its socket, or None.

    gunicorn's own reader copies such a body four times, and reads up to 1 MiB ahead without a reservation of
    memory. The function takes the maximum number of bytes to read. It returns b"" at the end of the body and
    after the sender disconnected. None: the body is chunked.
    """
    reader: Any = getattr(environ["wsgi.input"], "reader", None)
    if not isinstance(reader, LengthReader):
        return None
    unreader = reader.unreader

    def read(max_bytes: int) -> bytes:
        size = min(max_bytes, reader.length)
        if not size:
            return b""
        part: bytes = unreader.take_buffered()
        if len(part) > size:
            unreader.unread(part[size:])
            part = part[:size]
        part = part or unreader.sock.recv(size)
        # From this length, gunicorn knows how much to discard before the next request.
        reader.length -= len(part)
        return part

    return read


def hang_up(environ: WSGIEnvironment) -> None:
    """Close the connection of a request in both directions, without reading the rest."""
    if connection := environ.get("gunicorn.socket"):
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
