"""Whatever Truto reports as an error becomes a row of its own."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.truto.record_errors import RecordError, read_record_errors


def read(payload: object) -> list[RecordError]:
    return list(
        read_record_errors(json.dumps({"event": "sync_job_run:record_error", "payload": payload}).encode())
    )


def test_a_single_error_is_one() -> None:
    payload = {"resource": "crm/contacts", "method": "list", "error": {"status": 429, "message": "slow down"}}

    [error] = read(payload)

    about = (error.ordinal, error.resource, error.method, error.remote_status, error.message)
    assert about == (0, "crm/contacts", "list", 429, "slow down")
    assert json.loads(error.raw) == payload


def test_batched_errors_are_one_each() -> None:
    errors = [{"resource": "a", "method": "get", "message": "x"}, {"status_code": "502"}, "just text", None]

    found = read({"resource": "shared", "method": "list", "errors": errors})

    assert [(e.ordinal, e.resource, e.method, e.remote_status, e.message) for e in found] == [
        (0, "a", "get", None, "x"),
        (1, "shared", "list", 502, ""),
        (2, "shared", "list", None, "just text"),
        (3, "shared", "list", None, ""),
    ]
    assert [json.loads(error.raw) for error in found] == errors


@pytest.mark.parametrize(
    ("said", "status", "message"),
    [
        ({"status": 404, "message": "gone"}, 404, "gone"),
        ({"statusCode": 500, "error": "broken"}, 500, "broken"),
        ({"remote_error": {"status": "403", "error": {"message": "no"}}}, 403, "no"),
        ({"error": {"response": {"status": 418}}, "detail": "tea"}, 418, "tea"),
        ({"status": "failed", "code": 400}, 400, ""),
        ({"status": 99999, "message": None}, None, ""),
        ({"error": {"error": {"error": {"error": {"status": 500}}}}}, None, ""),
    ],
)
def test_status_and_message_are_found_where_they_stand(
    said: dict[str, object], status: int | None, message: str
) -> None:
    [error] = read(said)

    assert (error.remote_status, error.message) == (status, message)


@pytest.mark.parametrize("payload", [{}, [], "text", 7, None, {"errors": None}, {"errors": {"message": "m"}}])
def test_odd_shapes_are_kept_as_they_are(payload: object) -> None:
    [error] = read(payload)

    assert error.raw == json.dumps({"message": "m"} if payload == {"errors": {"message": "m"}} else payload)


def test_a_message_is_free_of_what_no_database_holds() -> None:
    [plain, nested] = read({"errors": ["a\0b", {"error": {"message": "c\ud800"}}]})

    assert (plain.message, nested.message) == ("a\ufffdb", "c\ufffd")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b'{"payload"', b'{"payload": {"errors": []}}'])
def test_where_no_error_is_none_is_read(body: bytes) -> None:
    assert list(read_record_errors(body)) == []


@given(st.binary(max_size=100))
def test_no_bytes_break_the_reader(junk: bytes) -> None:
    for body in (junk, b'{"payload": ' + junk + b"}", b'{"payload": {"errors": [' + junk + b"]}}"):
        assert isinstance(list(read_record_errors(body)), list)
