"""The formats of files: rows in, one complete file on a local disk out."""

import os
import sys
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from app.config.routes import ColumnConfig
from app.errors import SinkRefused
from app.sinks.base import Batch, Record
from app.sinks.sql.columns import ColumnCaster, DecimalLimits
from app.truto.records import encode_json, to_json

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Much faster than the usual 6, and a twentieth larger.
_GZIP_LEVEL = 4
# Their values repeat; the others are different in every row.
_REPEATED_COLUMNS = ("_account", "_delivery", "_job", "_run", "_method")
# Of a decimal of 38 digits, the most that Spark, DuckDB and BigQuery read.
_MAX_DECIMAL = DecimalLimits(20, 18)
_JSONL_SUFFIXES = {"none": ".jsonl", "gzip": ".jsonl.gz", "zstd": ".jsonl.zst"}


class FileWriter(Protocol):
    """A file that is written in steps. The file at `path` exists from the first `flush` on.

    buffered_bytes: roughly, of the rows since the last `flush`.
    """

    path: Path
    buffered_bytes: int

    def add(self, batch: Batch) -> Mapping[str, int]:
        """Add the records of a batch; return the misfits by column. Adds all of them, or raises."""
        ...

    def flush(self) -> None:
        """Write the rows since the last `flush`."""
        ...

    def close(self) -> None:
        """Complete the file, and make its content durable."""
        ...


class FileFormat(Protocol):
    """A format. suffix: of the names of its files."""

    suffix: str

    def open(self, path: Path, columns: Mapping[str, ColumnConfig]) -> FileWriter:
        """Return a writer of a new file. columns: of the route."""
        ...


def open_format(name: str, compression: str) -> FileFormat:
    """Return a format of the routes file; raises SinkRefused if its library is not installed."""
    return _Parquet(compression) if name == "parquet" else _JsonLines(compression)


class _JsonLines:
    """One JSON object a line; numbers are as exact as they were sent."""

    def __init__(self, compression: str) -> None:
        self.suffix = _JSONL_SUFFIXES[compression]
        self._compression = compression

    def open(self, path: Path, _columns: Mapping[str, ColumnConfig]) -> FileWriter:
        return _JsonLinesFile(path, self._compression)


class _JsonLinesFile:
    def __init__(self, path: Path, compression: str) -> None:
        self.path = path
        self.buffered_bytes = 0
        self._compressor = open_compressor(compression)
        self._lines: list[bytes] = []
        self._file: BinaryIO | None = None

    def add(self, batch: Batch) -> Mapping[str, int]:
        lines = [_format_line(batch, record) for record in batch.records]
        self._lines += lines
        self.buffered_bytes += sum(map(len, lines))
        return {}

    def flush(self) -> None:
        self._write(self._compressor.compress(b"".join(self._lines)))
        self._lines.clear()
        self.buffered_bytes = 0

    def _write(self, content: bytes) -> None:
        if self._file is None:
            self._file = self.path.open("xb")
        self._file.write(content)

    def close(self) -> None:
        self.flush()
        self._write(self._compressor.flush())
        if self._file is not None:
            self._file.close()
        sync_file(self.path)


class _Uncompressed:
    def compress(self, content: bytes) -> bytes:
        return content

    def flush(self) -> bytes:
        return b""


def open_compressor(compression: str) -> Any:
    """Return an object with `compress` and `flush`, as those of zlib."""
    if compression == "gzip":
        # The header has no time and no name: the same records are the same bytes.
        return zlib.compressobj(_GZIP_LEVEL, wbits=zlib.MAX_WBITS | 16)
    return zstd.ZstdCompressor() if compression == "zstd" else _Uncompressed()


def sync_file(path: Path) -> None:
    """Make the content of a file durable; raises OSError."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _format_line(batch: Batch, record: Record) -> bytes:
    row = _build_row(batch, record)
    for name in ("_version", "_received_at"):
        row[name] = row[name].isoformat(timespec="microseconds")
    return b'%s,"data":%s}\n' % (encode_json(row)[:-1], record.json_bytes)


class _Parquet:
    """Columns for the key, the version and the origin; the record as JSON text; the columns of the route."""

    suffix = ".parquet"

    def __init__(self, compression: str) -> None:
        try:
            import pyarrow  # noqa: F401, PLC0415  # optional
        except ImportError as error:
            message = "Parquet needs a library; in the checkout, run: pip install -e '.[parquet]'"
            raise SinkRefused("sink_set_up", message) from error
        self._compression = compression

    def open(self, path: Path, columns: Mapping[str, ColumnConfig]) -> FileWriter:
        return _ParquetFile(path, self._compression, columns)


class _ParquetFile:
    def __init__(self, path: Path, compression: str, columns: Mapping[str, ColumnConfig]) -> None:
        import pyarrow as pa  # noqa: PLC0415  # optional

        self.path = path
        self.buffered_bytes = 0
        self._columns = columns
        self._caster = ColumnCaster(columns, _MAX_DECIMAL)
        self._schema = build_schema(columns)
        self._rows: list[dict[str, Any]] = []
        self._compression = compression
        self._pa = pa
        self._writer: Any = None

    def add(self, batch: Batch) -> Mapping[str, int]:
        rows, misfits = list[dict[str, Any]](), dict[str, int]()
        for record in batch.records:
            values, reasons = self._caster.cast(record.value)
            for name in reasons:
                misfits[name] = misfits.get(name, 0) + 1
            rows.append(_build_row(batch, record) | {"data": record.json} | self._convert(values))
        self._rows += rows
        self.buffered_bytes += sum(len(row["data"]) + 300 for row in rows)
        return misfits

    def _convert(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: None if value is None else _CONVERSIONS.get(self._columns[name].type, _keep)(value)
            for name, value in values.items()
        }

    def flush(self) -> None:
        if self._writer is None:
            self._writer = open_parquet(self.path, self._schema, self._compression)
        if self._rows:
            self._writer.write_batch(self._pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()
        self.buffered_bytes = 0

    def close(self) -> None:
        self.flush()
        self._writer.close()
        sync_file(self.path)


def open_parquet(path: Path, schema: Any, compression: str) -> Any:
    """Return a writer of Arrow batches."""
    import pyarrow.parquet as pq  # noqa: PLC0415  # optional

    # By itself, Arrow compresses with gzip's slowest level.
    level = _GZIP_LEVEL if compression == "gzip" else None
    return pq.ParquetWriter(
        path,
        schema,
        compression=compression,
        compression_level=level,
        use_dictionary=[name for name in _REPEATED_COLUMNS if name in schema.names],
    )


def build_schema(columns: Mapping[str, ColumnConfig]) -> Any:
    """Return the Arrow schema of the files of a route."""
    import pyarrow as pa  # noqa: PLC0415  # optional

    time = pa.timestamp("us", tz="UTC")
    types = {
        "integer": pa.int64(),
        "number": pa.float64(),
        "decimal": pa.decimal128(sum(_MAX_DECIMAL), _MAX_DECIMAL.fraction_digits),
        "boolean": pa.bool_(),
        "timestamp": time,
        "date": pa.date32(),
    }
    own = {
        "_account": pa.string(),
        "_key": pa.string(),
        "_version": time,
        "_vseq": pa.string(),
        "_delivery": pa.string(),
        "_ordinal": pa.int64(),
        "_received_at": time,
        "_job": pa.string(),
        "_run": pa.string(),
        "_method": pa.string(),
        "_is_deletion": pa.bool_(),
        "data": pa.string(),
    }
    fields = [pa.field(name, type_, nullable=False) for name, type_ in own.items()]
    fields += [pa.field(name, types.get(column.type, pa.string())) for name, column in columns.items()]
    return pa.schema(fields)


def _build_row(batch: Batch, record: Record) -> dict[str, Any]:
    return {
        "_account": batch.account,
        "_key": record.key,
        "_version": record.version,
        "_vseq": record.sequence,
        "_delivery": str(batch.delivery_id),
        "_ordinal": record.ordinal,
        "_received_at": batch.received_at,
        "_job": batch.job,
        "_run": batch.run,
        "_method": batch.method,
        "_is_deletion": batch.is_deletion,
    }


def _keep(value: Any) -> Any:
    return value


# From the values of SQL columns: times and decimals are texts there.
_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "timestamp": lambda value: datetime.fromisoformat(value).astimezone(UTC),
    "date": date.fromisoformat,
    "decimal": Decimal,
    "json": to_json,
}
