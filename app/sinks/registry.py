"""The sinks of a routes file, opened by name."""

from app.config.routes import Routes
from app.config.sinks import FilesSinkConfig, HttpSinkConfig, PythonSinkConfig, SinkConfig, SqlSinkConfig
from app.sinks.base import Sink
from app.sinks.files import FilesSink
from app.sinks.http import HttpSink
from app.sinks.python import PythonSink
from app.sinks.sql.sink import SqlSink


class SinkRegistry:
    """The sinks of a routes file, each opened at its first use.

    Opening raises SinkUnavailable or SinkRefused.
    """

    def __init__(self, routes: Routes) -> None:
        self._sink_configs = routes.sinks
        self._open_sinks: dict[str, Sink] = {}

    @property
    def names(self) -> list[str]:
        """The names of all sinks, sorted."""
        return sorted(self._sink_configs)

    def open(self, name: str) -> Sink:
        """Return the sink of this name."""
        if name not in self._open_sinks:
            self._open_sinks[name] = open_sink(self._sink_configs[name])
        return self._open_sinks[name]

    def close(self) -> None:
        """Close the open sinks."""
        for sink in self._open_sinks.values():
            sink.close()
        self._open_sinks.clear()


def open_sink(config: SinkConfig) -> Sink:
    """Open a sink; raises SinkUnavailable or SinkRefused."""
    match config:
        case SqlSinkConfig():
            return SqlSink(config.url, schema=config.database_schema)
        case FilesSinkConfig():
            return FilesSink(config.url)
        case HttpSinkConfig():
            return HttpSink(config)
        case PythonSinkConfig():
            return PythonSink(config)
