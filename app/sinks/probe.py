"""Probe of a sink: reachable and writable; writes no record."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from app.config.routes import Routes
from app.config.sinks import (
    FilesSinkConfig,
    HttpSinkConfig,
    KafkaSinkConfig,
    PythonSinkConfig,
    SinkConfig,
    SqlSinkConfig,
    WarehouseSinkConfig,
)
from app.errors import SinkRefused, SinkUnavailable
from app.sinks.http import HttpSink
from app.sinks.python import PythonSink
from app.sinks.registry import open_kafka_sink, open_load_sink, open_sink, open_warehouse
from app.sinks.sql import probe as sql_probe
from app.sinks.sql import upkeep
from app.sinks.sql.probe import SetUpProblem


def probe_sink(config: SinkConfig) -> Path | None:
    """Return the local folder that a sink writes to; None if there is none.

    A bucket is listed.

    Raises SinkUnavailable if it cannot be reached or written; the message names the thing to check.
    """
    match config:
        case FilesSinkConfig():
            return _probe_files(config)
        case HttpSinkConfig():
            HttpSink(config).ping()
        case PythonSinkConfig():
            PythonSink(config)
        case KafkaSinkConfig():
            open_kafka_sink(config).ping()
        case WarehouseSinkConfig():
            open_warehouse(config).ping()
            # DuckDB writes a log next to its file.
            return probe_folder(config.local_file.parent) if config.local_file else None
        case SqlSinkConfig():
            folder = sql_probe.probe_database(config.url, schema=config.database_schema)
            # SQLite writes a log next to its file.
            return probe_folder(folder) if folder else None
    return None


def find_set_up_problems(name: str, routes: Routes) -> list[SetUpProblem]:
    """Compare the tables of a SQL sink with the routes that write to it; raises SinkUnavailable."""
    config = routes.sinks[name]
    if not isinstance(config, SqlSinkConfig):
        return []
    writing = [route for route in routes.routes if name in route.sinks]
    return sql_probe.find_set_up_problems(config.url, writing, schema=config.database_schema)


def keep_tables(name: str, routes: Routes) -> None:
    """Create missing indexes and views of a SQL sink, however long it takes; raises SinkUnavailable."""
    config = routes.sinks[name]
    if not isinstance(config, SqlSinkConfig):
        return
    writing = [route for route in routes.routes if name in route.sinks]
    upkeep.keep_tables(config.url, writing, schema=config.database_schema)


def _probe_files(config: FilesSinkConfig) -> Path | None:
    # Imported here: their libraries are optional.
    from app.sinks.files.object_store import ObjectStore  # noqa: PLC0415
    from app.sinks.files.sink import FilesSink  # noqa: PLC0415

    store = FilesSink(config).store
    if isinstance(store, ObjectStore):
        store.check()
        return None
    return probe_folder(config.local_folder)


def probe_folder(folder: Path) -> Path:
    """Return the folder, or its first existing parent; raise SinkUnavailable if it is not writable."""
    existing = next(candidate for candidate in (folder, *folder.parents) if candidate.exists())
    try:
        # On Linux the file has no name, so no reader of the folder can see it.
        with tempfile.TemporaryFile(dir=existing):
            return existing
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SinkUnavailable(f"the folder {folder} cannot be written ({reason})") from error


def find_unloadable_sinks(routes: Routes) -> Iterator[str]:
    """Return a problem for each sink whose function or library cannot be loaded: its place, the next step."""
    for name, config in routes.sinks.items():
        if isinstance(config, PythonSinkConfig | KafkaSinkConfig | WarehouseSinkConfig):
            try:
                open_load_sink(config) if isinstance(config, WarehouseSinkConfig) else open_sink(config)
            except SinkRefused as error:
                yield f"[sinks.{name}]: {error}"
