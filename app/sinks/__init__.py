"""Where records land: one file a sink, all behind the contract in `base`."""

from app.config.routes import FilesSinkConfig as FilesSpec
from app.config.routes import Routes
from app.sinks.base import Sink
from app.sinks.files import FilesSink
from app.sinks.sql.sink import SqlSink


class SinkRegistry:
    """The sinks of a routes file, each opened when it is first written to."""

    def __init__(self, routes: Routes) -> None:
        self._sink_configs = routes.sinks
        self._open_sinks: dict[str, Sink] = {}

    def open(self, name: str) -> Sink:
        """Return the sink of this name."""
        if name not in self._open_sinks:
            config = self._sink_configs[name]
            self._open_sinks[name] = (
                FilesSink(config.url) if isinstance(config, FilesSpec) else SqlSink(config.url)
            )
        return self._open_sinks[name]

    def close(self) -> None:
        """Close what was opened."""
        for sink in self._open_sinks.values():
            sink.close()
        self._open_sinks.clear()
