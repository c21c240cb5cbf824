"""A TLS port in front of a server without TLS."""

import contextlib
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate for 127.0.0.1; return its file and that of its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name, *files]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@contextmanager
def tls_proxy(listening: socket.socket, target: tuple[str, int], context: ssl.SSLContext) -> Iterator[None]:
    """Forward connections of a bound socket to a target while the block runs."""

    class Forwarder(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as client,
                socket.create_connection(target) as server,
            ):
                back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                back.start()
                _copy(client, server)
                back.join(5)

    with socketserver.ThreadingTCPServer(target, Forwarder, bind_and_activate=False) as proxy:
        proxy.daemon_threads = True
        proxy.block_on_close = False
        proxy.socket.close()
        proxy.socket = listening
        proxy.server_activate()
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        yield
        proxy.shutdown()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while received := source.recv(65_536):
            target.sendall(received)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
