"""Probe of a sink: reachable and writable; writes nothing."""

import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from app.config.routes import FilesSinkConfig, SinkConfig
from app.errors import SinkUnavailable
from app.sinks.sql.probe import probe_database


def probe_sink(config: SinkConfig) -> Path | None:
    """Return the local folder that a sink writes to; None if there is none.

    Raises SinkUnavailable if it cannot be reached or written; the message names the thing to check.
    """
    if isinstance(config, FilesSinkConfig):
        return probe_folder(Path(unquote(urlsplit(config.url).path)))
    # SQLite writes a log next to its file.
    folder = probe_database(config.url, schema=config.database_schema)
    return probe_folder(folder) if folder else None


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
