"""The sinks of a routes file, opened by name."""

from typing import TYPE_CHECKING

from app.config.routes import Routes
from app.config.sinks import (
    FilesSinkConfig,
    HttpSinkConfig,
    KafkaSinkConfig,
    LoadSinkConfig,
    PythonSinkConfig,
    SinkConfig,
    SqlSinkConfig,
    WarehouseSinkConfig,
)
from app.errors import SinkRefused
from app.sinks.base import AnySink, LoadSink, Sink
from app.sinks.python import PythonSink
from app.sinks.sql.sink import SqlSink

if TYPE_CHECKING:
    from app.sinks.files.sink import FilesSink
    from app.sinks.http import HttpSink
    from app.sinks.kafka import KafkaSink
    from app.sinks.warehouse.sink import WarehouseSink


class SinkRegistry:
    """The sinks of a routes file, each opened at its first use.

    Opening raises SinkUnavailable or SinkRefused.
    """

    def __init__(self, routes: Routes) -> None:
        self._sink_configs = routes.sinks
        self._sinks: dict[str, Sink] = {}
        self._load_sinks: dict[str, LoadSink] = {}

    @property
    def names(self) -> list[str]:
        """The names of all sinks, sorted."""
        return sorted(self._sink_configs)

    def has_loads(self, name: str) -> bool:
        """Whether the sink of this name writes loads; False for an unknown name."""
        return isinstance(self._sink_configs.get(name), LoadSinkConfig)

    def open_any(self, name: str) -> AnySink:
        """Return the sink of this name."""
        return self.open_load_sink(name) if self.has_loads(name) else self.open(name)

    def open(self, name: str) -> Sink:
        """Return the sink of this name, which writes batches."""
        if name not in self._sinks:
            self._sinks[name] = open_sink(self._sink_configs[name])
        return self._sinks[name]

    def open_load_sink(self, name: str) -> LoadSink:
        """Return the sink of this name, which writes loads."""
        if name not in self._load_sinks:
            self._load_sinks[name] = open_load_sink(self._sink_configs[name])
        return self._load_sinks[name]

    def close(self) -> None:
        """Close the open sinks."""
        for sink in (*self._sinks.values(), *self._load_sinks.values()):
            sink.close()
        self._sinks.clear()
        self._load_sinks.clear()


def open_sink(config: SinkConfig) -> Sink:
    """Open a sink that writes batches; raises SinkUnavailable or SinkRefused."""
    match config:
        case SqlSinkConfig():
            return SqlSink(config.url, schema=config.database_schema)
        case HttpSinkConfig():
            return _open_http(config)
        case PythonSinkConfig():
            return PythonSink(config)
        case KafkaSinkConfig():
            return open_kafka_sink(config)
        case LoadSinkConfig():
            raise TypeError(f"{config.type} sinks write loads")


def open_load_sink(config: SinkConfig) -> LoadSink:
    """Open a sink that writes loads; raises SinkUnavailable or SinkRefused."""
    match config:
        case FilesSinkConfig():
            return _open_files(config)
        case WarehouseSinkConfig():
            return open_warehouse(config)
        case _:
            raise TypeError(f"{config.type} sinks write batches")


def _open_http(config: HttpSinkConfig) -> "HttpSink":
    # Imported here: the HTTP client takes 3 MB of every worker, and few installations have such a sink.
    from app.sinks.http import HttpSink  # noqa: PLC0415

    return HttpSink(config)


def open_kafka_sink(config: KafkaSinkConfig) -> "KafkaSink":
    """Open a kafka sink, which connects at its first use; raises SinkRefused if its library is missing."""
    try:
        from app.sinks.kafka import KafkaSink  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as error:
        message = "Kafka needs a library; in the checkout, run: pip install -e '.[kafka]'"
        raise SinkRefused("sink_set_up", message) from error
    return KafkaSink(config)


def _open_files(config: FilesSinkConfig) -> "FilesSink":
    # Imported here: its libraries are optional.
    from app.sinks.files.sink import FilesSink  # noqa: PLC0415

    return FilesSink(config)


def open_warehouse(config: WarehouseSinkConfig) -> "WarehouseSink":
    """Open a warehouse sink; raises SinkRefused if its library is missing."""
    # Imported here: its libraries are optional.
    from app.sinks.warehouse.sink import WarehouseSink  # noqa: PLC0415

    return WarehouseSink(config)
