"""A sink registry with one sink replaced by a test's own."""

from app.config.routes import Routes
from app.sinks.base import Sink
from app.sinks.registry import SinkRegistry


class ReplacedSink(SinkRegistry):
    """The sinks of a routes file, with `sink` under the name `name`. It writes batches."""

    def __init__(self, routes: Routes, name: str, sink: Sink) -> None:
        super().__init__(routes)
        self._name = name
        self._sink = sink

    def has_loads(self, name: str) -> bool:
        return name != self._name and super().has_loads(name)

    def open(self, name: str) -> Sink:
        return self._sink if name == self._name else super().open(name)
