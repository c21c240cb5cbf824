"""Extensions of gunicorn's internals: a worker that limits its clients, and a body reader."""

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any
from wsgiref.types import WSGIEnvironment

import gevent
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.http import errors
from gunicorn.http.body import ChunkedReader, LengthReader
from gunicorn.sock import TCP6Socket
from gunicorn.workers.ggevent import GeventWorker

from app.config.operating_system import bind_address, release_stop_signals
from app.errors import BodyTooLarge
from app.garbage_collection import freeze_start_objects
from app.logs import locate_error, log_limited
from app.web.connection import Connection
from app.web.unverified_rate import UnverifiedRate

_CHECK_INTERVAL_S = 0.1
_EVICTION_PAUSE_S = 0.003
# While places are short, a connection without progress for longer is closed, the oldest first.
_UNVERIFIED_TIMEOUT_S = 1.0
_IDLE_TIMEOUT_S = 5.0
# At SIGTERM, for the request of a new connection or the rest of a head.
_LAST_REQUEST_S = 2.0
# Of a body that is still being sent after its response.
_DISCARD_BYTES = 64 * 1024 * 1024
# Chunks of a body that may be of any size, and the least mean size of further ones.
_FREE_CHUNKS = 64
_MIN_CHUNK_BYTES = 256
_MAX_TRAILER_BYTES = 8 * 1024
_STATUS_BY_ERROR = {
    errors.LimitRequestLine: (414, "URI Too Long"),
    errors.LimitRequestHeaders: (431, "Request Header Fields Too Large"),
    errors.ExpectationFailed: (417, "Expectation Failed"),
    errors.UnsupportedTransferCoding: (501, "Not Implemented"),
}


class DrainingWorker(GeventWorker):  # type: ignore[misc]  # gunicorn is not typed
    """A gevent worker whose clients cannot hold its places, and that closes idle connections at SIGTERM.

    At SIGTERM, gunicorn itself waits for idle connections as for open requests. Behind a router that keeps
    connections for 90 s, every deploy would last until the platform kills the process. A new connection has
    2 s to send its request, and one within a head to send the rest.

    Each connection takes a place. If places are short, connections that never brought a verified body are
    closed once they make no progress, and idle connections after 5 s.
    """

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self._open: set[Connection] = set()
        self._unverified_rate = UnverifiedRate()

    def init_signals(self) -> None:
        """Install the handlers of signals, then receive those that arrived since the fork."""
        super().init_signals()
        release_stop_signals()

    def run(self) -> None:
        """Serve requests until the process is stopped."""
        # gevent itself prints the traceback, whose message may quote a record.
        gevent.get_hub().print_exception = _log_greenlet_error
        gevent.spawn(self._keep_places_free)
        freeze_start_objects()
        # Otherwise a single process accepts up to 100 connections before it serves any.
        StreamServer.max_accept = 1
        super().run()

    def handle(self, listener: object, client: socket.socket, address: object) -> None:
        """Serve a connection."""
        connection = Connection(client, self._unverified_rate)
        self._open.add(connection)
        try:
            super().handle(listener, connection, address)
        finally:
            self._open.discard(connection)

    def handle_request(
        self, listener_name: object, request: Any, client: Connection, address: object
    ) -> None:
        """Serve one request; raises StopIteration if the connection must not serve another one."""
        client.begin_request(request)
        if isinstance(reader := request.body.reader, ChunkedReader):
            reader.parser = _read_chunks(reader.parser, request, must_close=request.must_close)
            request.must_close = True
            # gunicorn searches all trailers again after each part.
            reader.limit_trailer_section = _MAX_TRAILER_BYTES
        is_open = True
        try:
            try:
                super().handle_request(listener_name, request, client, address)
            except StopIteration:
                is_open = False
            is_open &= _discard_body(request, client)
        finally:
            client.end_request()
        if not is_open or client.is_evicted:
            raise StopIteration

    def handle_error(
        self,
        request: object,  # noqa: ARG002  # gunicorn's signature
        client: Connection,
        address: object,
        error: BaseException,
    ) -> None:
        """Answer a request that gunicorn refuses. gunicorn itself logs bytes of it."""
        client.end_request()
        kind, peer = type(error).__name__, address[0] if isinstance(address, tuple) else ""
        is_invalid = isinstance(error, errors.ParseException)
        if is_invalid:
            log_limited("request.invalid", kind=kind, peer=peer)
        else:
            log_limited("request.failed", level=logging.ERROR, fault=kind, location=locate_error(error))
        status, reason = _STATUS_BY_ERROR.get(
            type(error), (400, "Bad Request") if is_invalid else (500, "Internal Server Error")
        )
        with suppress(OSError):
            util.write_error(client, status, reason, "")

    def handle_exit(self, number: int, frame: FrameType | None) -> None:
        """Start a graceful shutdown, on SIGTERM."""
        super().handle_exit(number, frame)
        gevent.spawn(self._close_connections)

    def _keep_places_free(self) -> None:
        # A few places stay free, so that new connections need not wait for the next check.
        limit = self.worker_connections - self.worker_connections // 8
        while True:
            gevent.sleep(_CHECK_INTERVAL_S)
            excess = sum(not connection.is_evicted for connection in self._open) - limit
            if excess > 0:
                self._evict(excess)

    def _evict(self, count: int) -> None:
        now = time.monotonic()
        candidates = [
            connection
            for connection in self._open
            if not connection.is_evicted
            and not (connection.is_verified and connection.is_serving)
            and now - connection.progress_at
            > (_IDLE_TIMEOUT_S if connection.is_verified else _UNVERIFIED_TIMEOUT_S)
        ]
        candidates.sort(key=lambda connection: (connection.is_verified, connection.progress_at))
        if candidates:
            count = min(count, len(candidates))
            log_limited("connections.closed", count=count, reason="all places are taken")
        for connection in candidates[:count]:
            connection.evict()
            # The kernel takes a while to free bytes that nobody has read.
            gevent.sleep(_EVICTION_PAUSE_S)

    def _close_connections(self) -> None:
        closes_all_at = time.monotonic() + _LAST_REQUEST_S
        for connection in self._open:
            connection.announce_close()
        while True:
            for connection in list(self._open):
                is_late = not connection.is_serving and time.monotonic() > closes_all_at
                if connection.is_idle or is_late:
                    connection.close_unless_sending()
            gevent.sleep(_CHECK_INTERVAL_S)


def _log_greenlet_error(_context: object, kind: type[BaseException], error: Any, *_trace: object) -> None:
    location = locate_error(error) if isinstance(error, BaseException) else ""
    log_limited("greenlet.failed", level=logging.ERROR, fault=kind.__name__, location=location)


def _bind(listener: Any, listening: socket.socket) -> None:
    bind_address(listening, *listener.cfg_addr[:2])


# gunicorn's own IPv6 socket takes the IPv4 addresses too, on most systems.
TCP6Socket.bind = _bind


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


def _read_chunks(parts: Iterator[bytes], request: Any, *, must_close: bool) -> Iterator[bytes]:
    """Yield the parts of a chunked body; raise BodyTooLarge if its chunks are too many for its bytes.

    must_close: whether the connection closes after the response; without the end of the body, it does.
    """
    count = total = 0
    for part in parts:
        # gunicorn also yields an empty part if a chunk's first bytes arrive after its size.
        if not part:
            continue
        count += 1
        total += len(part)
        # Each chunk takes CPU time, however small it is.
        if total < (count - _FREE_CHUNKS) * _MIN_CHUNK_BYTES:
            raise BodyTooLarge(
                f"{count} chunks with {total} bytes: a chunk needs {_MIN_CHUNK_BYTES} on average"
            )
        yield part
    request.must_close = must_close


def _discard_body(request: Any, client: Connection) -> bool:
    """Read and discard the rest of a body after the response; return whether another request can follow.

    A connection that is closed with unread bytes is reset, and the sender may never see the response.
    """
    reader = request.body.reader
    if not isinstance(reader, LengthReader):
        if reader.parser is None:
            return True
        # The end of a chunked body is not searched: the connection closes.
        if not request.body.failed:
            client.discard(_DISCARD_BYTES)
        return False
    if reader.length == 0:
        return True
    buffered = reader.unreader.take_buffered()
    reader.unreader.unread(buffered[reader.length :])
    remaining = max(0, reader.length - len(buffered))
    # Otherwise gunicorn discards as many bytes of the next request.
    reader.length = 0
    return remaining <= _DISCARD_BYTES and client.discard(remaining)
