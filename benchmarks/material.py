"""The same records for every contender of `end_to_end`, in the form that each of them takes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from app.simulator.records import make_record
from app.sinks.base import Batch, Record
from app.truto.signature import sign
from app.truto.target_url import WEBHOOK_PATH
from tests.support.web_process import SECRET

RESOURCE = "crm/contacts"
# What the SQL sink calls it, and the others are told to.
TABLE = "crm_contacts"
_ACCOUNT = "5f0c1f3e-5a6c-4a55-8d0a-2f1f5d9f3c11"
_RUN = "0d7f4f1b-6f0e-4a0f-9a52-3b9d2e6f4c22"


def make_records(number: int) -> list[dict[str, Any]]:
    """Make so many records of about 1 KB, each with another id."""
    return [make_record(RESOURCE, _ACCOUNT, index, "1") for index in range(number)]


def make_requests(number: int, size: int) -> list[bytes]:
    """Return the signed HTTP requests that bring so many records, `size` in each."""
    return [_request(records) for records in _pages(number, size)]


def make_batches(number: int, size: int) -> Iterator[Batch]:
    """Yield the same deliveries as a worker hands them to a sink."""
    for records in _pages(number, size):
        now = datetime.now(UTC)
        kept = [Record(ordinal, record) for ordinal, record in enumerate(records)]
        yield Batch(uuid4(), now, now, RESOURCE, "list", _ACCOUNT, "", _RUN, kept)


def write_jsonl(path: Path, number: int) -> None:
    """Write a record a line."""
    _write_lines(path, make_records(number))


def write_singer(path: Path, number: int) -> None:
    """Write Singer messages: the records' schema, then a record a line."""
    records = make_records(number)
    schema = {"type": "object", "properties": {name: _schema(name, v) for name, v in records[0].items()}}
    stream = {"stream": TABLE}
    about = {"type": "SCHEMA", **stream, "schema": schema, "key_properties": ["id"]}
    _write_lines(path, [about, *({"type": "RECORD", **stream, "record": record} for record in records)])


def _pages(number: int, size: int) -> Iterator[list[dict[str, Any]]]:
    records = make_records(number)
    yield from (records[start : start + size] for start in range(0, number, size))


def _request(records: Sequence[Mapping[str, Any]]) -> bytes:
    payload = {
        "resource": RESOURCE,
        "method": "list",
        "integrated_account_id": _ACCOUNT,
        "sync_job_run_id": _RUN,
        "records": records,
    }
    created_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    event = {
        "id": str(uuid4()),
        "event": "sync_job_run:record",
        "payload": payload,
        "created_at": created_at,
    }
    body = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    head = (
        f"POST {WEBHOOK_PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"X-Truto-Signature: {sign(body, SECRET)}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _schema(name: str, value: Any) -> dict[str, Any]:
    if name.endswith("_at"):
        return {"type": ["string", "null"], "format": "date-time"}
    if isinstance(value, list):
        return {"type": ["array", "null"], "items": {"type": ["object", "string"]}}
    return {"type": ["object" if isinstance(value, dict) else "string", "null"]}


def _write_lines(path: Path, values: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
