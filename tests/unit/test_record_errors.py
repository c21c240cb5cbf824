"""Every error that Truto reports is read, in any shape."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.truto.record_errors import RecordError, read_record_errors


def read(payload: object) -> list[RecordError]:
    return list(
        read_record_errors(json.dumps({"event": "sync_job_run:record_error", "payload": payload}).encode())
    )


def test_a_payload_without_errors_is_one_error() -> None:
    payload = {"resource": "crm/contacts", "method": "list", "error": {"status": 429, "message": "slow down"}}

    [error] = read(payload)

    fields = (error.ordinal, error.resource, error.method, error.remote_status, error.message)
    assert fields == (0, "crm/contacts", "list", 429, "slow down")
    assert json.loads(error.raw) == payload


def test_batched_errors_are_read_one_by_one() -> None:
    errors = [{"resource": "a", "method": "get", "message": "x"}, {"status_code": "502"}, "just text", None]

    parsed = read({"resource": "shared", "method": "list", "errors": errors})

    assert [(e.ordinal, e.resource, e.method, e.remote_status, e.message) for e in parsed] == [
        (0, "a", "get", None, "x"),
        (1, "shared", "list", 502, ""),
        (2, "shared", "list", None, "just text"),
        (3, "shared", "list", None, ""),
    ]
    assert [json.loads(error.raw) for error in parsed] == errors


@pytest.mark.parametrize(
    ("payload", "status", "message"),
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
def test_status_and_message_are_found_in_every_known_place(
    payload: dict[str, object], status: int | None, message: str
) -> None:
    [error] = read(payload)

    assert (error.remote_status, error.message) == (status, message)


@pytest.mark.parametrize("payload", [{}, [], "text", 7, None, {"errors": None}, {"errors": {"message": "m"}}])
def test_a_payload_of_an_unexpected_shape_keeps_its_json(payload: object) -> None:
    [error] = read(payload)

    assert error.raw == json.dumps({"message": "m"} if payload == {"errors": {"message": "m"}} else payload)


def test_unstorable_characters_in_a_message_are_replaced() -> None:
    [plain, nested] = read({"errors": ["a\0b", {"error": {"message": "c\ud800"}}]})

    assert (plain.message, nested.message) == ("a\ufffdb", "c\ufffd")


@pytest.mark.parametrize(
    "odd", [b'"x\ty"', b'"\xff"', b'"\\ud800"', b"9" * 5000, b"NaN", b"[" * 5000 + b"]" * 5000, b"01"]
)
def test_an_odd_member_does_not_hide_the_others(odd: bytes) -> None:
    error = (
        b'{"status": 429, "query": {"a": [' + odd + b']}, "error": {"odd": ' + odd + b', "message": "slow"}}'
    )

    [plain, alone] = read_record_errors(b'{"payload": {"resource": "x", "errors": [' + error + b", 1]}}")

    assert (plain.resource, plain.remote_status, plain.message) == ("x", 429, "slow")
    assert alone.message == "1"


def test_long_names_and_messages_are_cut_and_kept_in_the_raw_json() -> None:
    long = "x" * 1_000_000

    [error] = read({"resource": long, "method": long, "message": long})

    assert (error.resource, error.method) == ("x" * 200, "x" * 200)
    assert 1000 < len(error.message) < 10_000
    assert long in error.raw


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b'{"payload"', b'{"payload": {"errors": []}}'])
def test_a_body_without_errors_has_none(body: bytes) -> None:
    assert list(read_record_errors(body)) == []


@given(st.binary(max_size=100))
def test_arbitrary_bytes_never_raise(junk: bytes) -> None:
    for body in (junk, b'{"payload": ' + junk + b"}", b'{"payload": {"errors": [' + junk + b"]}}"):
        assert isinstance(list(read_record_errors(body)), list)


def test_errors_are_read_from_any_of_them_on() -> None:
    def read_from(payload: object, first: int) -> list[int]:
        body = json.dumps({"payload": payload}).encode()
        return [error.ordinal for error in read_record_errors(body, first_ordinal=first)]

    assert read_from({"errors": [{}] * 5}, 3) == [3, 4]
    assert read_from({"errors": [{}] * 5}, 5) == read_from({"status": 500}, 1) == []
