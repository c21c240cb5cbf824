"""gunicorn's gevent worker, but idle connections hold up neither its end nor those who come."""

import socket
import time
from types import FrameType

import gevent
from gunicorn.workers.ggevent import GeventWorker

_EVERY_S = 0.2
# What a connection may take to send a request's head while others wait for its place.
_PATIENCE_S = 5.0


class DrainingWorker(GeventWorker):  # type: ignore[misc]  # gunicorn is not typed
    """Lets go of idle connections: of all at SIGTERM, of the patient ones when there is no place for more.

    gunicorn waits for idle ones as for open requests. At SIGTERM, that is up to its grace: with a router that
    keeps connections for 90 s, every deploy would take until the platform kills the process. When all places
    are taken, nobody else is accepted for up to 95 s (`keepalive`), be they kept alive or stuck in a head.
    """

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self._open: set[socket.socket] = set()
        # Those between two requests, or within a request's head, and since when.
        self._idle_since: dict[socket.socket, float] = {}

    def run(self) -> None:
        """Serve until told to end."""
        gevent.spawn(self._make_place)
        super().run()

    def handle(self, listener: object, client: socket.socket, address: object) -> None:
        """Serve a connection; between its requests it is idle."""
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
        """Begin to end, on SIGTERM."""
        super().handle_exit(number, frame)
        gevent.spawn(self._dismiss_all)

    def _make_place(self) -> None:
        while True:
            gevent.sleep(_EVERY_S)
            if len(self._open) >= self.worker_connections:
                self._dismiss(idle_for_s=_PATIENCE_S)

    def _dismiss_all(self) -> None:
        while True:
            self._dismiss(idle_for_s=0)
            gevent.sleep(_EVERY_S)

    def _dismiss(self, *, idle_for_s: float) -> None:
        now = time.monotonic()
        for client, since in list(self._idle_since.items()):
            if now - since < idle_for_s:
                continue
            try:
                # A request that is here already is still read and answered; then the connection ends.
                client.shutdown(socket.SHUT_RD)
            except OSError:
                self._idle_since.pop(client, None)
