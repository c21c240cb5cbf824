"""The writing of one load: a file for each partition."""

import json
import shutil
from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

from app.config.routes import ColumnConfig, Route
from app.sinks.base import Batch, WriteResult
from app.sinks.files.file_store import FileStore, StagedFile
from app.sinks.files.formats import FileFormat, FileWriter
from app.sinks.files.local_store import translate_errors
from app.sinks.files.names import format_partition

# Of all open files together.
_MAX_BUFFERED_BYTES = 16 * 1024 * 1024
# Larger ones are written at once, so that a full buffer is mostly one file's.
_MAX_FILE_BUFFER_BYTES = 4 * 1024 * 1024
# A partition whose file was closed gets another one.
_MAX_OPEN_FILES = 100


class _FileKey(NamedTuple):
    """A partition, and the columns of its rows: routes of one resource may differ."""

    partition: str
    columns: str


class FilesLoad:
    """The files of one load in one attempt. See LoadWriter.

    Deliveries arrive partition by partition, except for those with records of several accounts: memory and
    open files are limited all the same.
    """

    def __init__(self, store: FileStore, file_format: FileFormat, load_id: UUID) -> None:
        self._store = store
        self._format = file_format
        self._load_id = load_id
        with translate_errors():
            self._staging = store.open_staging(load_id)
        # The least recently used first.
        self._open: dict[_FileKey, FileWriter] = {}
        self._on_disk: dict[_FileKey, None] = {}
        self._numbers: dict[str, int] = {}
        self._staged: list[StagedFile] = []

    def add(self, batch: Batch, route: Route) -> WriteResult:
        """Add a batch to the file of its partition; see LoadWriter."""
        partition = format_partition(batch.resource, batch.account, batch.received_at.date())
        columns = {name: column.model_dump(mode="json") for name, column in route.columns.items()}
        key = _FileKey(partition, json.dumps(columns))
        writer = self._open.pop(key, None) or self._open_file(partition, route.columns)
        self._open[key] = writer
        misfits = writer.add(batch)
        if writer.buffered_bytes >= _MAX_FILE_BUFFER_BYTES:
            self._flush(key)
        while sum(one.buffered_bytes for one in self._open.values()) > _MAX_BUFFERED_BYTES:
            self._flush(max(self._open, key=lambda one: self._open[one].buffered_bytes))
        return WriteResult(len(batch.records), misfits=misfits)

    def prepare(self) -> str:
        """Complete the files; return their names as JSON."""
        for key in list(self._open):
            self._close_file(key)
        return json.dumps([name for _, name in self._staged])

    def commit(self, *, earlier: str) -> None:
        """Make the files visible, and remove those that only an earlier attempt wrote."""
        self._store.publish(self._staged)
        obsolete = {*json.loads(earlier or "[]")} - {name for _, name in self._staged}
        if obsolete:
            self._store.delete(sorted(obsolete))

    def close(self) -> None:
        """Remove the staging folder."""
        shutil.rmtree(self._staging, ignore_errors=True)

    def _open_file(self, partition: str, columns: Mapping[str, ColumnConfig]) -> FileWriter:
        number = self._numbers[partition] = self._numbers.get(partition, 0) + 1
        part = f"-{number}" if number > 1 else ""
        name = f"{partition}/{self._load_id}{part}{self._format.suffix}"
        path = self._staging / f"{len(self._staged)}.part"
        self._staged.append(StagedFile(path, name))
        return self._format.open(path, columns)

    def _flush(self, key: _FileKey) -> None:
        with translate_errors():
            self._open[key].flush()
        self._on_disk[key] = None
        if len(self._on_disk) > _MAX_OPEN_FILES:
            oldest = next(one for one in self._open if one in self._on_disk and one != key)
            self._close_file(oldest)

    def _close_file(self, key: _FileKey) -> None:
        with translate_errors():
            self._open.pop(key).close()
        self._on_disk.pop(key, None)
