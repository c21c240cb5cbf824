"""Files of the sink, row by row: read versions, copy rows."""

import gzip
import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from app.sinks.files.formats import open_compressor, open_parquet, sync_file

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_ROW_MEMBERS = ("_account", "_key", "_version", "_vseq", "_is_deletion")
_READ_BYTES = 1024 * 1024
_BATCH_ROWS = 10_000


class RowVersion(NamedTuple):
    """A row's record and version. record: a hash of its account and key. order: sorts the versions."""

    record: bytes
    order: str
    is_deletion: bool


Keep = Callable[[RowVersion], bool]


def read_versions(path: Path, name: str) -> Iterator[RowVersion]:
    """Yield the version of each row. name: with the suffix of the format. Raises ValueError if unreadable."""
    if name.endswith(".parquet"):
        for batch in _read_batches(path, columns=_ROW_MEMBERS):
            yield from map(_build_version, batch.to_pylist())
    else:
        yield from (_parse_version(line) for line in _read_lines(path, name))


def copy_rows(
    sources: Sequence[tuple[Path, str]], target: Path, keep: Keep, *, compression: str
) -> tuple[int, int]:
    """Write the rows to keep into a new file of the same format, durably.

    sources: paths with names, of one format, and of equal columns. Returns the numbers of rows before and
    after. Raises ValueError if a source is unreadable.
    """
    if sources[0][1].endswith(".parquet"):
        return _copy_batches([path for path, _ in sources], target, keep, compression=compression)
    before = after = 0
    compressor = open_compressor(compression)
    with target.open("xb") as file:
        for line in (line for source in sources for line in _read_lines(*source)):
            before += 1
            if keep(_parse_version(line)):
                after += 1
                file.write(compressor.compress(line + b"\n"))
        file.write(compressor.flush())
    sync_file(target)
    return before, after


def read_schema(path: Path, name: str) -> str:
    """Return a text that is equal for files with equal columns."""
    if not name.endswith(".parquet"):
        return "jsonl"
    import pyarrow.parquet as pq  # noqa: PLC0415  # optional

    with _translate_arrow_errors():
        return str(pq.read_schema(path).remove_metadata())


def _copy_batches(paths: Iterable[Path], target: Path, keep: Keep, *, compression: str) -> tuple[int, int]:
    import pyarrow as pa  # noqa: PLC0415  # optional

    before, after, writer = 0, 0, None
    try:
        for batch in (batch for path in paths for batch in _read_batches(path)):
            writer = writer or open_parquet(target, batch.schema, compression)
            mask = [keep(_build_version(row)) for row in batch.select(_ROW_MEMBERS).to_pylist()]
            before, after = before + len(mask), after + sum(mask)
            writer.write_batch(batch.filter(pa.array(mask)))
    finally:
        if writer:
            writer.close()
    sync_file(target)
    return before, after


def _read_batches(path: Path, *, columns: Sequence[str] | None = None) -> Iterator[Any]:
    import pyarrow.parquet as pq  # noqa: PLC0415  # optional

    with _translate_arrow_errors(), pq.ParquetFile(path) as file:
        yield from file.iter_batches(_BATCH_ROWS, columns=list(columns) if columns else None)


@contextmanager
def _translate_arrow_errors() -> Iterator[None]:
    import pyarrow as pa  # noqa: PLC0415  # optional

    try:
        yield
    except pa.ArrowException as error:
        raise ValueError("the file is no Parquet file") from error


def _read_lines(path: Path, name: str) -> Iterator[bytes]:
    rest = b""
    with path.open("rb") as file:
        for part in _decompress(file, name):
            *lines, rest = (rest + part).split(b"\n")
            yield from lines
    if rest:
        raise ValueError("the file ends within a line")


def _decompress(file: BinaryIO, name: str) -> Iterator[bytes]:
    content: Any = file
    if name.endswith(".zst"):
        content = zstd.ZstdFile(file)
    elif name.endswith(".gz"):
        content = gzip.GzipFile(fileobj=file)
    try:
        yield from iter(lambda: content.read(_READ_BYTES), b"")
    except (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
        raise ValueError("the file is damaged") from error


def _parse_version(line: bytes) -> RowVersion:
    row = json.loads(line)
    return _build_version(row) if isinstance(row, dict) else _build_version({})


def _build_version(row: dict[str, Any]) -> RowVersion:
    try:
        account, key, version, sequence, is_deletion = (row[name] for name in _ROW_MEMBERS)
    except KeyError as error:
        raise ValueError("a row has no key or version") from error
    if isinstance(version, datetime):
        version = version.astimezone(UTC).isoformat(timespec="microseconds")
    record = hashlib.blake2b(f"{len(account)} {account} {key}".encode(), digest_size=16).digest()
    return RowVersion(record, f"{version} {sequence}", bool(is_deletion))
