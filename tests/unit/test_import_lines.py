"""Lines of an import: their errors, and the memory that they take."""

import json
import tracemalloc
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from app.store.delivery_export import FORMAT, ImportedDelivery, read_line

ID = UUID(int=7)
AT = datetime(2026, 11, 24, 10, tzinfo=UTC)
LINE: dict[str, Any] = {"format": FORMAT, "id": str(ID), "received_at": AT.isoformat(), "body": "{}"}


def test_a_line_is_read_whatever_its_other_members_are() -> None:
    line = json.dumps({**LINE, "event": [1], "state": None, "later": {"x": 1e400}}).replace("Infinity", "0")

    assert read_line(line.encode()) == ImportedDelivery(ID, AT, b"{}")


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"id": 5}, "its id is not a UUID"),
        ({"id": "x"}, "its id is not a UUID"),
        ({"received_at": None}, "its received_at is not a time"),
        ({"received_at": "0001-01-01T00:00:00+14:00"}, "its received_at is not a time"),
        ({"body": ["x"]}, "it has no body"),
        ({"body": None, "body_base64": "#"}, "its body is damaged"),
        ({"body": "\ud800"}, "it is damaged"),
        ({"later": float("nan"), "event": "test"}, "it is damaged"),
        ({"format": "rapidbridge.delivery/9"}, "does not know its format rapidbridge.delivery/9"),
    ],
)
def test_a_damaged_line_names_its_problem(members: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_line(json.dumps({**LINE, **members}).encode())


@pytest.mark.parametrize(
    "line",
    [b'"rapidbridge.delivery/1"', b'["rapidbridge.delivery/1"', b'{"format": ["rapidbridge.delivery/1"]}'],
)
def test_a_line_of_another_kind_is_no_export(line: bytes) -> None:
    assert read_line(line) is None


@pytest.mark.parametrize("name", ["body", "id", "later"])
def test_a_line_of_many_objects_takes_little_memory(name: str) -> None:
    line = json.dumps({**LINE, name: 0}).replace('": 0', '": [' + "{}," * 1_000_000 + "{}]").encode()
    tracemalloc.start()
    try:
        if name == "later":
            assert read_line(line)
        else:
            with pytest.raises(ValueError, match=r"body|UUID"):
                read_line(line)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # Objects would take 64 MB.
    assert peak_bytes < 3 * len(line)
