"""Where records land: one file a sink, all behind the contract in `base`."""

from app.config.routes import FilesSink as FilesSpec
from app.config.routes import Routes
from app.sinks.base import Sink
from app.sinks.files import FilesSink
from app.sinks.sql.sink import SqlSink


class Sinks:
    """The sinks of a routes file, each opened when it is first written to."""

    def __init__(self, routes: Routes) -> None:
        self._specs = routes.sinks
        self._open: dict[str, Sink] = {}

    def open(self, name: str) -> Sink:
        """Return the sink of this name."""
        if name not in self._open:
            spec = self._specs[name]
            self._open[name] = FilesSink(spec.url) if isinstance(spec, FilesSpec) else SqlSink(spec.url)
        return self._open[name]

    def close(self) -> None:
        """Close what was opened."""
        for sink in self._open.values():
            sink.close()
        self._open.clear()
