"""Connections of clients, with turns and deadlines."""

import errno
import struct
import time
from contextlib import suppress
from typing import Any
from wsgiref.types import WSGIEnvironment

import gevent
from gevent import socket

from app.web.memory_budget import Reservation
from app.web.unverified_rate import UnverifiedRate

# For a whole head, from its first byte.
HEAD_TIMEOUT_S = 10.0
_MAX_HEAD_BYTES = 64 * 1024
# For all waiting while one response is written.
WRITE_TIMEOUT_S = 5.0
# The longest time, and the most reads, before other connections have their turn.
_TURN_S = 0.002
_TURN_READS = 64
# gevent does not look at the sockets during a sleep of 0.
_SHORTEST_SLEEP_S = 1e-6
# A body makes progress with each part of this size.
_PROGRESS_BYTES = 64 * 1024
# Of a body that is still being sent after its response: 64 MB/s on each of a few connections.
_DISCARD_TIMEOUT_S = 2.0
_DISCARD_STEP_BYTES = 64 * 1024
_DISCARD_PAUSE_S = 0.001
_MAX_DISCARDING = 8
# To read bytes that have already arrived.
_EVICTION_S = 0.2
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class Connection(socket.socket):  # type: ignore[misc]  # gevent is not typed
    """A client's socket that takes turns with the others, and waits for its client until a deadline.

    gevent's `recv` does not switch to other connections while bytes are available, and its `sendall` waits
    without a deadline for a client that does not read.

    is_serving: whether a request is being served. is_idle: whether it waits for a further one. Neither: it
    is new, or within a head.
    is_verified: whether a body with a valid signature has arrived; is_request_verified: in the last request.
    is_evicted: whether the connection ends with the current request.
    progress_at: by time.monotonic(), the time of the last progress: a new connection, 64 KiB of a body, a
    verified body, or the start of a request that had to wait for it. Other requests are no progress.
    reservation: of memory for the current request's body.
    """

    __slots__ = (
        "_evicted_until",
        "_head_bytes",
        "_head_deadline",
        "_is_scheduled",
        "_is_writing",
        "_loop_time",
        "_part_bytes",
        "_request",
        "_request_loop_time",
        "_request_to_close",
        "_turn_reads",
        "_turn_started",
        "_unverified_rate",
        "_write_left_s",
        "is_evicted",
        "is_idle",
        "is_request_verified",
        "is_serving",
        "is_verified",
        "progress_at",
        "reservation",
    )

    discarding_count = 0

    def __init__(self, client: socket.socket, unverified_rate: UnverifiedRate) -> None:
        super().__init__(client.family, client.type, client.proto, client.detach())
        self.is_serving = self.is_idle = self.is_verified = self.is_request_verified = self.is_evicted = False
        self.progress_at = self._turn_started = time.monotonic()
        self._head_deadline = self._evicted_until = self._loop_time = self._request_loop_time = 0.0
        self._head_bytes = self._part_bytes = self._turn_reads = 0
        self._is_writing = self._is_scheduled = False
        self._unverified_rate = unverified_rate
        self._request: Any = None
        self._request_to_close: Any = None
        self.reservation: Reservation | None = None
        self._write_left_s = WRITE_TIMEOUT_S

    def begin_request(self, request: Any) -> None:
        """Start to serve one of gunicorn's requests, after a turn of the other connections."""
        self.is_idle = False
        # Of requests that arrived together, each takes a turn of its own.
        if self._request_loop_time == self.hub.loop.now():
            gevent.sleep(_SHORTEST_SLEEP_S)
        self._wait_for_start()
        self._request_loop_time = self.hub.loop.now()
        self.is_serving, self.is_request_verified = True, False
        self._write_left_s = WRITE_TIMEOUT_S
        self._request, self._request_to_close = request, None
        if not self.is_verified and not request.must_close and self._unverified_rate.is_exceeded():
            # The response announces it, so a router opens a new connection.
            request.must_close = True
            self._request_to_close = request

    def end_request(self) -> None:
        """Wait for the next head."""
        self.is_serving = self._is_scheduled = False
        self.is_idle = True
        self._request = self.reservation = None
        self._head_bytes = 0
        if not self.is_request_verified:
            self._unverified_rate.record()

    def mark_verified(self) -> None:
        """Record that the request's body has a valid signature."""
        self.is_verified = self.is_request_verified = True
        self.progress_at = time.monotonic()
        if self._request_to_close:
            self._request_to_close.must_close = False

    def evict(self) -> None:
        """End the connection soon. A request that has arrived completely is still answered."""
        self.is_evicted = True
        self._head_deadline = self._evicted_until = time.monotonic() + _EVICTION_S
        if self.reservation:
            self.reservation.cancel()
        with suppress(OSError):
            self.shutdown(socket.SHUT_RDWR if self._is_writing else socket.SHUT_RD)

    def announce_close(self) -> None:
        """Let the response to the current request say that the connection ends with it."""
        if self._request:
            # Not must_close, which a verified body and the end of a chunked one reset.
            self._request.should_close = lambda: True

    def close_unless_sending(self) -> None:
        """End a connection that serves no request, unless bytes of the next one have arrived."""
        try:
            if self._sock.recv(1, socket.MSG_PEEK):
                return
        except BlockingIOError:
            pass
        except OSError:
            return
        self.is_evicted = True
        # Both directions: then the kernel refuses what the client sends from now on. After SHUT_RD alone, the
        # first half of a request could still be read, and would be answered as an incomplete one.
        with suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive bytes; b"" at the end. Raises ConnectionResetError, also if a head takes too long."""
        self._take_turn()
        if not self.is_serving:
            return self._recv_head(size, flags)
        # After SHUT_RD, bytes that have arrived can be read, but the peer can send more of them.
        is_over = self.is_evicted and time.monotonic() > self._evicted_until
        part = b"" if is_over else self._recv(size, flags)
        self._part_bytes += len(part)
        if self._part_bytes >= _PROGRESS_BYTES:
            self._part_bytes = 0
            self.progress_at = time.monotonic()
        return part

    def send(self, data: bytes, flags: int = 0, **timeout: float | None) -> int:
        """Send bytes within the deadline of the response. timeout: passed by gevent's `sendall`."""
        if timeout:
            count: int = super().send(data, flags, **timeout)
            return count
        # gunicorn sends `100 Continue` in this way.
        self.sendall(data, flags)
        return len(data)

    def sendall(self, data: bytes, flags: int = 0) -> None:
        """Send all bytes. Raises BrokenPipeError, also if the client does not read them in time."""
        try:
            sent = self._sock.send(data, flags)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise BrokenPipeError(errno.EPIPE, "the connection is lost") from error
        # Nearly all responses fit into the kernel's buffer: no waiting, and no deadline to set.
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:], flags)

    def extend_response(self) -> None:
        """Restart the deadline of a response that has many parts, before each of them."""
        self._write_left_s = WRITE_TIMEOUT_S

    def _send_rest(self, rest: memoryview, flags: int) -> None:
        started = time.monotonic()
        self.settimeout(max(0.0, self._write_left_s))
        self._is_writing = True
        try:
            super().sendall(rest, flags)
        except OSError as error:
            # Otherwise the kernel keeps unread bytes for minutes after the close.
            with suppress(OSError):
                self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            raise BrokenPipeError(errno.EPIPE, "the client does not read the response") from error
        finally:
            self._is_writing = False
            self.settimeout(None)
            self._write_left_s -= time.monotonic() - started

    def discard(self, count: int) -> bool:
        """Receive and drop bytes for a short time; return whether all of them arrived.

        Only a few connections may do so at once.
        """
        if not count or Connection.discarding_count >= _MAX_DISCARDING:
            return not count
        Connection.discarding_count += 1
        try:
            with suppress(OSError), gevent.Timeout(_DISCARD_TIMEOUT_S, exception=False):
                while count and not self.is_evicted:
                    part = self._recv(min(count, _DISCARD_STEP_BYTES), 0)
                    if not part:
                        break
                    count -= len(part)
                    gevent.sleep(_DISCARD_PAUSE_S)
        finally:
            Connection.discarding_count -= 1
        return not count

    def _recv_head(self, size: int, flags: int) -> bytes:
        if self._head_bytes == 0:
            # Idle: gunicorn limits this time.
            part = self._recv(size, flags)
            if part:
                self.is_idle = False
                self._wait_for_start()
            self._head_deadline = time.monotonic() + HEAD_TIMEOUT_S
        else:
            self.settimeout(max(0.0, self._head_deadline - time.monotonic()))
            try:
                part = self._recv(size, flags)
            finally:
                self.settimeout(None)
        self._head_bytes += len(part)
        if self._head_bytes > _MAX_HEAD_BYTES:
            # gunicorn searches the whole head again after each part.
            raise ConnectionResetError(errno.ECONNRESET, "the head is too large")
        return part

    def _recv(self, size: int, flags: int) -> bytes:
        try:
            part: bytes = super().recv(size, flags)
        except OSError as error:
            if self.is_evicted:
                return b""
            # gunicorn logs a traceback of any other error.
            raise ConnectionResetError(errno.ECONNRESET, "the connection is lost") from error
        return part

    def _wait_for_start(self) -> None:
        if self._is_scheduled:
            return
        self._is_scheduled = True
        if not self.is_request_verified and (delay_s := self._unverified_rate.reserve_start()):
            # The client is not to blame for this time.
            self.progress_at = time.monotonic() + delay_s
            gevent.sleep(delay_s)

    def _take_turn(self) -> None:
        if self._loop_time != self.hub.loop.now():
            self._begin_turn()
            return
        self._turn_reads += 1
        if self._turn_reads > _TURN_READS or time.monotonic() - self._turn_started > _TURN_S:
            gevent.sleep(_SHORTEST_SLEEP_S)
            self._begin_turn()

    def _begin_turn(self) -> None:
        # The loop's time changes whenever other connections had a turn.
        self._loop_time = self.hub.loop.now()
        self._turn_started = time.monotonic()
        self._turn_reads = 0


def find_connection(environ: WSGIEnvironment) -> Connection | None:
    """Return the connection of a request; None without gunicorn, as in Flask's test client."""
    connection = environ.get("gunicorn.socket")
    return connection if isinstance(connection, Connection) else None
