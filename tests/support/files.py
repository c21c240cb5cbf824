"""Files sinks, and their files as readers that are not the receiver's see them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from backports import zstd

from app.config.sinks import FilesSinkConfig
from app.sinks.files.sink import FilesSink
from app.truto.records import decode_json, to_json


def open_files(place: Path | str, **keys: Any) -> FilesSink:
    """Open a files sink. place: a folder, or a URL. keys: of its table in a routes file."""
    url = place if isinstance(place, str) else f"file://{place}"
    return FilesSink(FilesSinkConfig.model_validate({"type": "files", "url": url} | keys))


def list_paths(folder: Path) -> list[Path]:
    """Return all files below a folder, temporary ones included."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def read_rows(name: str, content: bytes) -> list[dict[str, Any]]:
    """Return the rows of a file, with `data` parsed. name: with the suffix of its format."""
    if name.endswith(".parquet"):
        rows = pq.read_table(pa.BufferReader(content)).to_pylist()
        return [row | {"data": json.loads(row["data"])} for row in rows]
    return [json.loads(line) for line in decompress(name, content).splitlines()]


def read_text(path: Path) -> str:
    """Return the text of the records in a file."""
    if path.suffix == ".parquet":
        return "\n".join(pq.read_table(path).column("data").to_pylist())
    return decompress(path.name, path.read_bytes()).decode()


def decompress(name: str, content: bytes) -> bytes:
    """Return the text of a JSON Lines file."""
    if name.endswith(".gz"):
        return gzip.decompress(content)
    return zstd.decompress(content) if name.endswith(".zst") else content


def read_files(folder: Path) -> list[Any]:
    """Return the records of all files below a folder, in the order of names and rows."""
    return [row["data"] for path in list_paths(folder) for row in read_rows(path.name, path.read_bytes())]


def read_newest(folder: Path) -> dict[tuple[str, str], str]:
    """Return the JSON text of the newest version of each record below a folder, by account and key."""
    rows = [row for path in list_paths(folder) for row in _read_exact_rows(path)]
    rows.sort(key=lambda row: (str(row["_version"]), row["_vseq"]))
    newest = {(row["_account"], row["_key"]): row for row in rows}
    return {place: row["data"] for place, row in newest.items() if not row["_is_deletion"]}


def _read_exact_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, with `data` as JSON text, in which no number is rounded."""
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
        return rows
    lines = decompress(path.name, path.read_bytes()).decode().splitlines()
    return [row | {"data": to_json(row["data"])} for row in map(decode_json, lines)]
