"""The same records as bodies and as Singer messages, one file for each pass.

The pass "insert" has new keys, "update" the same keys and newer versions, and "small" a tenth of the keys and
still newer versions.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from app.simulator.sample_records import make_record
from app.truto.events import RECORD_EVENT
from benchmarks.payloads import RESOURCE, TABLE

PASSES = ("insert", "update", "small")
_SMALL_SHARE = 10
_ACCOUNT = "5f0c1f3e-5a6c-4a55-8d0a-2f1f5d9f3c11"
_RUN = "0d7f4f1b-6f0e-4a0f-9a52-3b9d2e6f4c22"
_JSON_SCHEMA = {"id": {"type": "string"}, "version": {"type": "string"}, "data": {"type": "object"}}


@dataclass(frozen=True, slots=True)
class PassFiles:
    """The files of one pass. version: of its records, a number from 1 on. records: their number.

    bodies: events as Truto sends them. singer_columns: messages with the record's fields. singer_json:
    messages with the record in one field, beside its id and version.
    """

    version: int
    records: int
    bodies: Path
    singer_columns: Path
    singer_json: Path


def write_inputs(folder: Path, records: int, page_size: int) -> list[PassFiles]:
    """Write the files of all passes."""
    now = datetime.now(UTC)
    counts = {"insert": records, "update": records, "small": records // _SMALL_SHARE}
    return [
        _write_pass(folder / name, version, now + timedelta(seconds=version), counts[name], page_size)
        for version, name in enumerate(PASSES, 1)
    ]


def _write_pass(
    folder: Path, version: int, created_at: datetime, record_count: int, page_size: int
) -> PassFiles:
    folder.mkdir()
    files = PassFiles(
        version,
        record_count,
        folder / "bodies.jsonl",
        folder / "columns.singer.jsonl",
        folder / "json.singer.jsonl",
    )
    records = [make_record(RESOURCE, _ACCOUNT, index, str(version)) for index in range(record_count)]
    time = created_at.isoformat(timespec="milliseconds")
    pages = [records[start : start + page_size] for start in range(0, record_count, page_size)]
    _write_lines(files.bodies, [_make_event(f"{version}-{n}", time, page) for n, page in enumerate(pages)])
    schema = {name: _describe_field(name, value) for name, value in records[0].items()}
    _write_singer(files.singer_columns, schema, records)
    rows = [{"id": record["id"], "version": time, "data": record} for record in records]
    _write_singer(files.singer_json, _JSON_SCHEMA, rows)
    return files


def _make_event(event_id: str, created_at: str, page: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    payload = {
        "resource": RESOURCE,
        "method": "list",
        "integrated_account_id": _ACCOUNT,
        "sync_job_run_id": _RUN,
        "records": page,
    }
    return {"id": event_id, "event": RECORD_EVENT, "payload": payload, "created_at": created_at}


def _write_singer(path: Path, properties: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    schema = {
        "type": "SCHEMA",
        "stream": TABLE,
        "schema": {"type": "object", "properties": properties},
        "key_properties": ["id"],
    }
    messages = [{"type": "RECORD", "stream": TABLE, "record": record} for record in records]
    _write_lines(path, [schema, *messages])


def _describe_field(name: str, value: object) -> Mapping[str, Any]:
    if name.endswith("_at"):
        return {"type": ["string", "null"], "format": "date-time"}
    if isinstance(value, list):
        return {"type": ["array", "null"], "items": {"type": ["object", "string"]}}
    return {"type": ["object" if isinstance(value, dict) else "string", "null"]}


def _write_lines(path: Path, values: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w") as file:
        file.writelines(
            json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n" for value in values
        )
