"""gunicorn's gevent worker, but idle connections do not hold up its end."""

import socket
from types import FrameType

import gevent
from gunicorn.workers.ggevent import GeventWorker

_EVERY_S = 0.2


class DrainingWorker(GeventWorker):  # type: ignore[misc]  # gunicorn is not typed
    """On SIGTERM, answers what has arrived and lets go of connections that are only kept alive.

    gunicorn waits for those as for open requests, up to its grace: with a router that keeps connections for
    90 s, every deploy would take until the platform kills the process.
    """

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self._idle: set[socket.socket] = set()

    def handle(self, listener: object, client: socket.socket, address: object) -> None:
        """Serve a connection; between its requests it is idle."""
        self._idle.add(client)
        try:
            super().handle(listener, client, address)
        finally:
            self._idle.discard(client)

    def handle_request(
        self, listener_name: object, request: object, client: socket.socket, address: object
    ) -> None:
        """Serve one request."""
        self._idle.discard(client)
        try:
            super().handle_request(listener_name, request, client, address)
        finally:
            self._idle.add(client)

    def handle_exit(self, number: int, frame: FrameType | None) -> None:
        """Begin to end, on SIGTERM."""
        super().handle_exit(number, frame)
        gevent.spawn(self._dismiss)

    def _dismiss(self) -> None:
        while True:
            for client in list(self._idle):
                try:
                    # A request that is here already is still read and answered; then the connection ends.
                    client.shutdown(socket.SHUT_RD)
                except OSError:
                    self._idle.discard(client)
            gevent.sleep(_EVERY_S)
