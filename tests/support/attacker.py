"""Unsigned clients that try to stop the receiver: `python -m tests.support.attacker NAME PORT CONNECTIONS`.

Each attack keeps its number of connections open, and opens a new one for each that the receiver closes.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import gevent
from gevent import socket

from tests.support.processes import ROOT

# Well-formed, but of no body: only the whole body can show that it is wrong.
_SIGNATURE = "X-Truto-Signature: format=sha256,v=" + "0" * 64
_GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
_FORM_PART = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
_LARGE_FORM = _FORM_PART * 950 + b"--x--\r\n"
_LARGE_BODY = b"x" * 1_000_000
_ONE_BYTE_CHUNKS = b"1\r\nx\r\n" * 10_000
# Between two connections of a sender that was dismissed, so that the attacker's own CPU time stays small.
_PAUSE_S = 0.05
_HOLD_S = 60


def head(*lines: str, method: str = "POST", path: str = "/webhooks/truto") -> bytes:
    """Return the head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def never_read(connection: socket.socket) -> None:
    """Send thousands of requests, and read no response."""
    connection.sendall(head("Content-Length: 0") * 3000)
    _wait_for_close(connection)


def never_read_errors(connection: socket.socket) -> None:
    """As never_read, for the responses of gunicorn itself."""
    connection.sendall(head("Transfer-Encoding: identity") * 3000)
    _wait_for_close(connection)


def send_tiny_chunks(connection: socket.socket) -> None:
    """Send a body in chunks of 1 byte."""
    connection.sendall(head(_SIGNATURE, "Transfer-Encoding: chunked"))
    while True:
        connection.sendall(_ONE_BYTE_CHUNKS)


def send_tiny_chunks_elsewhere(connection: socket.socket) -> None:
    """Send a body in chunks of 1 byte to a path that needs none."""
    connection.sendall(head("Transfer-Encoding: chunked", method="GET", path="/healthz"))
    while True:
        connection.sendall(_ONE_BYTE_CHUNKS)


def pipeline(connection: socket.socket) -> None:
    """Send requests without waiting for responses."""
    reading = gevent.spawn(_read_to_end, connection)
    try:
        while not reading.dead:
            connection.sendall(_GET * 1000)
    finally:
        reading.kill()


def poll_readiness(connection: socket.socket) -> None:
    """Ask for the readiness in a loop."""
    while True:
        connection.sendall(head(method="GET", path="/readyz"))
        if not connection.recv(65536):
            return


def sign_in(connection: socket.socket) -> None:
    """Send forms of a thousand parts to the sign-in page."""
    form = "Content-Type: multipart/form-data; boundary=x", f"Content-Length: {len(_LARGE_FORM)}"
    while True:
        connection.sendall(head(*form, path="/login") + _LARGE_FORM)
        if not connection.recv(65536):
            return


def expect_continue(connection: socket.socket) -> None:
    """Ask for permission to send thousands of bodies, and read no answer."""
    connection.sendall(head(_SIGNATURE, "Expect: 100-continue", "Content-Length: 0") * 3000)
    _wait_for_close(connection)


def drip_trailers(connection: socket.socket) -> None:
    """Send a chunked body whose trailers never end."""
    connection.sendall(head(_SIGNATURE, "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\nX-Padding: ")
    connection.sendall(b"x" * 500_000)
    _drip(connection)


def drip_heads(connection: socket.socket) -> None:
    """Send a head that never ends."""
    connection.sendall(b"GET /healthz HTTP/1.1\r\nX-Padding: ")
    _drip(connection)


def drip_bodies(connection: socket.socket) -> None:
    """Send a small body that never ends."""
    connection.sendall(head(_SIGNATURE, "Content-Length: 60000") + b"x" * 1000)
    _drip(connection)


def stall_large_bodies(connection: socket.socket) -> None:
    """Send the start of a body of 32 MB, so that memory is reserved for it."""
    connection.sendall(head(_SIGNATURE, "Content-Length: 32000000") + b"x" * 300_000)
    _drip(connection)


def send_wrong_signatures(connection: socket.socket) -> None:
    """Send complete requests with a wrong signature, each after the last one's response."""
    while True:
        connection.sendall(head(_SIGNATURE, "Content-Length: 1000") + b"x" * 1000)
        if not connection.recv(65536):
            return


def send_malformed_signatures(connection: socket.socket) -> None:
    """Send complete requests whose signature is no MAC, each after the last one's response."""
    while True:
        connection.sendall(head("X-Truto-Signature: v=x", "Content-Length: 1000") + b"x" * 1000)
        if not connection.recv(65536):
            return


def send_large_bodies(connection: socket.socket) -> None:
    """Send whole bodies of 1 MB with a wrong signature, which only all of the body can show."""
    while True:
        connection.sendall(head(_SIGNATURE, f"Content-Length: {len(_LARGE_BODY)}") + _LARGE_BODY)
        if not connection.recv(65536):
            return


def reconnect(connection: socket.socket) -> None:
    """Send one request, and close."""
    connection.sendall(head())
    connection.recv(65536)


def send_invalid_requests(connection: socket.socket) -> None:
    """Send bytes that are no request."""
    connection.sendall(b"secret-of-a-customer\r\n\r\n")
    connection.recv(65536)


ATTACKS: dict[str, Callable[[socket.socket], None]] = {
    attack.__name__: attack
    for attack in (
        never_read,
        never_read_errors,
        send_tiny_chunks,
        send_tiny_chunks_elsewhere,
        pipeline,
        poll_readiness,
        sign_in,
        expect_continue,
        drip_heads,
        drip_trailers,
        drip_bodies,
        stall_large_bodies,
        send_wrong_signatures,
        send_malformed_signatures,
        send_large_bodies,
        reconnect,
        send_invalid_requests,
    )
}


def _drip(connection: socket.socket) -> None:
    while _is_open(connection):
        connection.send(b"x")
        gevent.sleep(1)


def _wait_for_close(connection: socket.socket) -> None:
    while _is_open(connection):
        gevent.sleep(0.2)


def _is_open(connection: socket.socket) -> bool:
    # The first byte of tcp_info is the state; 1 is ESTABLISHED. No byte is read.
    return bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1)


def _read_to_end(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(65536):
            pass


def _repeat(attack: Callable[[socket.socket], None], port: int) -> None:
    while True:
        try:
            with socket.socket() as connection:
                # As small as the kernel allows, and before the handshake: the window is announced there.
                if attack in (never_read, never_read_errors, expect_continue):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
                connection.settimeout(_HOLD_S)
                connection.connect(("127.0.0.1", port))
                attack(connection)
        except OSError:
            pass
        gevent.sleep(_PAUSE_S)


class Attackers:
    """Two attackers that take more connections than there are places; a context manager."""

    def __init__(self, name: str, port: int, *, connections: int = 320) -> None:
        command = [sys.executable, "-m", "tests.support.attacker", name, str(port), str(connections // 2)]
        self._command = command
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._processes = [subprocess.Popen(self._command, cwd=ROOT) for _ in range(2)]
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def main() -> None:
    """Attack until the process is ended."""
    name, port, connections = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    # Sender, receiver and attackers share the cores: the receiver must not wait for the attackers' own work.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.nice(19)
    gevent.joinall([gevent.spawn(_repeat, ATTACKS[name], port) for _ in range(connections)])


if __name__ == "__main__":
    main()
