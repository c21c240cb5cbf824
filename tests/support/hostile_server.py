"""HTTP servers whose responses never end, or grow without a limit."""

import gzip
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_CHUNK = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
_BOMB = gzip.compress(b" " * 30_000_000)


def drip_headers(connection: socket.socket) -> None:
    """Send a byte of the headers every tenth of a second."""
    connection.sendall(_HEAD)
    _send_forever(connection, b"X", pause_s=0.1)


def drip_body(connection: socket.socket) -> None:
    """Send a byte of the body every tenth of a second."""
    connection.sendall(_HEAD + b"Content-Length: 1000000\r\n\r\n")
    _send_forever(connection, b" ", pause_s=0.1)


def drip_nothing(connection: socket.socket) -> None:
    """Send informational responses, and never the response."""
    _send_forever(connection, b"HTTP/1.1 103 Early Hints\r\n\r\n", pause_s=0.1)


def endless_headers(connection: socket.socket) -> None:
    """Send headers as fast as they are read."""
    connection.sendall(_HEAD)
    _send_forever(connection, b"X-Header: " + b"x" * 10_000 + b"\r\n")


def endless_chunks(connection: socket.socket) -> None:
    """Send chunks of the body as fast as they are read."""
    connection.sendall(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    _send_forever(connection, _CHUNK)


def large_body(connection: socket.socket) -> None:
    """Send 100 MB."""
    connection.sendall(_HEAD + b"Content-Length: 100000000\r\n\r\n")
    for _ in range(100):
        connection.sendall(b" " * 1_000_000)


def gzip_bomb(connection: socket.socket) -> None:
    """Send 30 KB that inflate to 30 MB."""
    length = b"Content-Length: %d\r\n\r\n" % len(_BOMB)
    connection.sendall(_HEAD + b"Content-Encoding: gzip\r\n" + length + _BOMB)


def deep_json(connection: socket.socket) -> None:
    """Send a million nested lists."""
    body = b"[" * 1_000_000
    connection.sendall(_HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def redirect(connection: socket.socket) -> None:
    """Redirect to another host."""
    connection.sendall(
        b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere.invalid/\r\nContent-Length: 0\r\n\r\n"
    )


def read_slowly(connection: socket.socket) -> None:
    """Read a few bytes of the request every tenth of a second."""
    while connection.recv(512):
        time.sleep(0.1)


@contextmanager
def serving(respond: Callable[[socket.socket], None]) -> Iterator[str]:
    """Answer every request on a free port with `respond`; yield the URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        # Small buffers: a sender notices soon that nobody reads.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        threading.Thread(target=_accept, args=(server, respond), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket, respond: Callable[[socket.socket], None]) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection, respond), daemon=True).start()


def _answer(connection: socket.socket, respond: Callable[[socket.socket], None]) -> None:
    with connection:
        try:
            if respond is not read_slowly:
                connection.recv(65536)
            respond(connection)
        except OSError:
            # The client has given up.
            return


def _send_forever(connection: socket.socket, text: bytes, *, pause_s: float = 0.0) -> None:
    for _ in itertools.count():
        connection.sendall(text)
        time.sleep(pause_s)
