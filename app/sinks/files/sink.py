"""The files sink: JSON Lines or Parquet, by resource, account and day."""

from uuid import UUID

from app.config.sinks import FilesSinkConfig
from app.sinks.files.file_store import FileStore
from app.sinks.files.formats import open_format
from app.sinks.files.load_writer import FilesLoad
from app.sinks.files.local_store import LocalStore
from app.sinks.files.object_store import ObjectStore


class FilesSink:
    """Files named resource=<…>/account=<…>/dt=<day received>/<load>.jsonl.gz, with one record a row.

    A file is complete or missing. A load that is written again replaces its own files. Every version of a
    record is kept until a compaction; readers take the greatest (_version, _vseq), as the SQL sink does.
    See LoadSink.
    """

    def __init__(self, config: FilesSinkConfig) -> None:
        self.store: FileStore = open_file_store(config)
        self.format = open_format(config.format, config.compression)

    def begin_load(self, load_id: UUID) -> FilesLoad:
        """Begin an attempt at a load; see LoadSink."""
        return FilesLoad(self.store, self.format, load_id)

    def count(self, account: str) -> int:
        """Count the files of an account; see AnySink."""
        folders = self.store.list_partitions(account)
        return sum(1 for folder in folders for _ in self.store.list_files(folder))

    def erase(self, account: str) -> int:
        """Remove the files of an account, and what killed workers left; see AnySink."""
        number = 0
        for folder in self.store.list_partitions(account):
            names = [file.name for file in self.store.list_files(folder)]
            self.store.delete(names)
            self.store.remove_leftovers(folder)
            number += len(names)
        return number

    def close(self) -> None:
        """Do nothing: no file stays open."""


def open_file_store(config: FilesSinkConfig) -> FileStore:
    """Return the store in which a sink keeps its files; raises SinkRefused if its library is missing."""
    if config.is_local:
        return LocalStore(config.local_folder)
    return ObjectStore(config.url)
