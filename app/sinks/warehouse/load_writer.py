"""The writing of one load: Parquet files, which dlt appends to the tables."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from app.config.routes import Route
from app.sinks.base import Batch, Record, RejectedRecord, WriteResult
from app.sinks.files.formats import FileWriter, open_format
from app.sinks.files.local_store import translate_errors
from app.sinks.warehouse.dlt_client import DltClient
from app.sinks.warehouse.names import name_tables

# Less than the job has: its interruption names no cause.
_LOAD_TIMEOUT_S = 280.0
_MIN_COMMIT_TIMEOUT_S = 10.0
_MAX_FILE_BUFFER_BYTES = 4 * 1024 * 1024
# Of the text of a record: the greatest column of the destination.
_MAX_RECORD_BYTES: Mapping[str, int] = {"redshift": 65_535, "snowflake": 16_777_216}


class _TableKey(NamedTuple):
    """A resource, its table, and the columns of its rows: routes of one resource may differ."""

    resource: str
    table: str
    view: str
    columns: str


class WarehouseLoad:
    """The rows of one load in one attempt. See LoadWriter.

    Deliveries arrive resource by resource: the files of one resource are open at once.
    """

    def __init__(self, client: DltClient, destination: str, load_id: UUID, folder: Path) -> None:
        self._client = client
        self._max_record_bytes = _MAX_RECORD_BYTES.get(destination)
        self._too_large = f"over {self._max_record_bytes} bytes, the limit of a text in {destination}"
        self._load_id = load_id
        self._deadline_s = time.monotonic() + _LOAD_TIMEOUT_S
        self._folder = folder
        self._format = open_format("parquet", "zstd")
        self._open: dict[_TableKey, FileWriter] = {}
        self._files: list[dict[str, str]] = []

    def add(self, batch: Batch, route: Route) -> WriteResult:
        """Add a batch to the file of its resource; see LoadWriter."""
        stored = [record for record in batch.records if self._is_storable(record)]
        rejected = [
            RejectedRecord(record.ordinal, "too_large", self._too_large)
            for record in batch.records
            if not self._is_storable(record)
        ]
        misfits = self._add_records(replace(batch, records=stored), route) if stored else {}
        return WriteResult(len(stored), rejected, misfits)

    def _add_records(self, batch: Batch, route: Route) -> Mapping[str, int]:
        columns = {name: column.model_dump(mode="json") for name, column in route.columns.items()}
        key = _TableKey(batch.resource, *name_tables(batch.resource, route), json.dumps(columns))
        if any(one.resource != batch.resource for one in self._open):
            self._close_files()
        if key not in self._open:
            self._open[key] = self._open_file(key, route)
        writer = self._open[key]
        misfits = writer.add(batch)
        if writer.buffered_bytes >= _MAX_FILE_BUFFER_BYTES:
            with translate_errors():
                writer.flush()
        return misfits

    def prepare(self) -> str:
        """Complete the files; return a text that is not empty."""
        self._close_files()
        return json.dumps({"files": len(self._files)})

    def commit(self, *, earlier: str) -> None:
        """Append the files to their tables, then remove the rows of earlier attempts."""
        if not (self._files or earlier):
            return
        self._client.run(
            "load",
            self._folder,
            timeout_s=max(self._deadline_s - time.monotonic(), _MIN_COMMIT_TIMEOUT_S),
            load=str(self._load_id),
            # Of fixed width: the later attempt is the greater one.
            attempt=f"{time.time_ns() // 1000:020d}",
            files=self._files,
            is_repeated=bool(earlier),
        )

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _is_storable(self, record: Record) -> bool:
        if self._max_record_bytes is None or len(record.json) * 4 <= self._max_record_bytes:
            return True
        return len(record.json.encode()) <= self._max_record_bytes

    def _open_file(self, key: _TableKey, route: Route) -> FileWriter:
        path = self._folder / f"{len(self._files)}.parquet"
        place = {"resource": key.resource, "table": key.table, "view": key.view}
        self._files.append({"path": str(path)} | place)
        return self._format.open(path, route.columns)

    def _close_files(self) -> None:
        with translate_errors():
            for writer in self._open.values():
                writer.close()
        self._open.clear()
