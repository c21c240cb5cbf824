"""Whether a sink could be written to now, found out without writing to it."""

import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from app.config.routes import FilesSinkConfig, SinkConfig
from app.errors import SinkUnavailable
from app.sinks.sql.probe import probe_database


def probe_sink(config: SinkConfig) -> Path | None:
    """Return a folder that a sink fills, None where it is no folder of this machine.

    Raises SinkUnavailable where it cannot be reached or written, with what to look at.
    """
    if isinstance(config, FilesSinkConfig):
        return probe_folder(Path(unquote(urlsplit(config.url).path)))
    # SQLite writes a log beside its file.
    folder = probe_database(config.url)
    return probe_folder(folder) if folder else None


def probe_folder(folder: Path) -> Path:
    """Return the folder, or where it would be created, if files can be made there."""
    present = next(candidate for candidate in (folder, *folder.parents) if candidate.exists())
    try:
        # Without a name, on Linux: nobody ever sees it.
        with tempfile.TemporaryFile(dir=present):
            return present
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SinkUnavailable(f"the folder {folder} cannot be written ({reason})") from error
