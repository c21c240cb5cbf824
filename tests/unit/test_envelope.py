"""Whatever an event looks like, what it is about is found."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import UnreadableDelivery
from app.truto.events import Envelope, has_records, read_envelope

# What pydantic's parser cannot take, but a batch may hold all the same.
POISONS = [
    "[" * 5000 + "]" * 5000,
    "[" * 100_000 + "]" * 100_000,
    "9" * 5000,
    '"\\ud800"',
    '"a\nb"',
    '{"a": 1,}',
    "nonsense",
]


def envelope(payload: object = None, **members: object) -> Envelope:
    return read_envelope(json.dumps({"event": "sync_job_run:record", "payload": payload, **members}).encode())


def test_every_field_is_read() -> None:
    found = envelope(
        {
            "resource": "crm/contacts",
            "method": "list",
            "sync_job_run_id": "r",
            "sync_job_id": "j",
            "integrated_account_id": "a",
            "records": [{"id": 1}],
        },
        id="e",
        created_at="2023-06-16T09:21:21.000Z",
        webhook_id="w",
        environment_id="n",
        tenant_id="t",
    )

    assert found == Envelope(
        event_id="e",
        event="sync_job_run:record",
        created_at=datetime(2023, 6, 16, 9, 21, 21, tzinfo=UTC),
        webhook_id="w",
        environment_id="n",
        sync_job_run_id="r",
        sync_job_id="j",
        integrated_account_id="a",
        resource="crm/contacts",
        method="list",
    )


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2023-06-16T09:21:21.000Z", datetime(2023, 6, 16, 9, 21, 21, tzinfo=UTC)),
        ("2024-09-10 12:00:00", datetime(2024, 9, 10, 12, tzinfo=UTC)),
        ("2024-09-10T12:00:00+02:00", datetime(2024, 9, 10, 10, tzinfo=UTC)),
        ("2024-09-10T12:00:00.123456789Z", datetime(2024, 9, 10, 12, 0, 0, 123456, tzinfo=UTC)),
        ("0001-01-01T00:00:00+23:00", None),
        ("soon", None),
        ("", None),
        (1726000000, None),
        (None, None),
        ({}, None),
    ],
)
def test_times_in_every_spelling(text: object, time: datetime | None) -> None:
    assert envelope(created_at=text).created_at == time


@pytest.mark.parametrize(
    "payload",
    [
        {
            "sync_job_run_id": "r",
            "sync_job_id": "j",
            "integrated_account_id": "a",
            "resource": "x",
            "method": "m",
        },
        {
            "meta": {
                "sync_job_run_id": "r",
                "sync_job_id": "j",
                "integrated_account_id": "a",
                "resource": "x",
                "method": "m",
            }
        },
        {
            "sync_job_run": {"id": "r", "sync_job_id": "j", "integrated_account_id": "a"},
            "resource": "x",
            "method": "m",
        },
        {
            "sync_job_run": "r",
            "sync_job": {"id": "j"},
            "integrated_account": {"id": "a"},
            "resource": "x",
            "method": "m",
        },
    ],
)
@pytest.mark.parametrize("poison", [None, *POISONS], ids=lambda poison: str(poison)[:8])
def test_ids_are_found_wherever_they_stand(payload: dict[str, Any], poison: str | None) -> None:
    # A poisonous record takes the other way through the reader, to the same end.
    record = poison or "{}"
    text = json.dumps({"event": "sync_job_run:record", "payload": {**payload, "records": ["POISON"]}})

    found = read_envelope(text.replace('"POISON"', record).encode())

    about = (
        found.sync_job_run_id,
        found.sync_job_id,
        found.integrated_account_id,
        found.resource,
        found.method,
    )
    assert about == ("r", "j", "a", "x", "m")


@pytest.mark.parametrize("action", ["created", "started", "updated", "completed", "failed", "stopped", "new"])
def test_a_lifecycle_event_is_about_the_run_it_brings(action: str) -> None:
    payload = {"id": "r", "sync_job_id": "j", "integrated_account_id": "a", "webhook_id": "w", "status": "x"}

    found = envelope(payload, event=f"sync_job_run:{action}")

    assert (found.sync_job_run_id, found.sync_job_id, found.integrated_account_id) == ("r", "j", "a")


def test_a_records_own_id_is_not_its_runs() -> None:
    assert envelope({"id": "x"}).sync_job_run_id == ""
    assert envelope({"id": "x"}, event="sync_job_run:record_error").sync_job_run_id == ""
    assert envelope({"id": "x"}, event="record:created").sync_job_run_id == ""


@pytest.mark.parametrize("name", ["event", "eventType"])
def test_the_test_button_is_understood(name: str) -> None:
    assert read_envelope(json.dumps({name: "test", "payload": {"foo": "bar"}}).encode()).event == "test"


@pytest.mark.parametrize("odd", [None, "", "text", 7, 1.5, True, [], [1], {}, {"a": 1}])
@pytest.mark.parametrize("place", ["payload", "id", "webhook_id", "environment_id", "created_at"])
def test_odd_values_leave_only_their_own_field_empty(place: str, odd: object) -> None:
    found = envelope(**{"payload": {"resource": "x"}, "environment_id": "n", place: odd})

    assert found.event == "sync_job_run:record"
    assert found.resource == ("" if place == "payload" else "x")


def test_an_id_that_is_a_number_is_its_text() -> None:
    assert envelope(id=17).event_id == "17"


def test_nul_and_lone_surrogates_are_replaced() -> None:
    body = b'{"event": "test", "id": "a\\u0000b\\ud800c"}'

    assert read_envelope(body).event_id == "a\ufffdb\ufffdc"


def test_bytes_that_are_no_utf8_cost_only_themselves() -> None:
    body = b'{"event": "sync_job_run:record", "payload": {"resource": "x", "records": ["\xff"]}}'

    assert read_envelope(body).resource == "x"


def test_a_byte_order_mark_is_no_hindrance() -> None:
    assert read_envelope(b'\xef\xbb\xbf{"event": "test"}').event == "test"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty_body"),
        (b"  \n", "empty_body"),
        (b"text", "not_json"),
        (b"<html>", "not_json"),
        (b"{", "not_json"),
        (b'{"event": "x"', "not_json"),
        (b'{"event": "x"} {}', "not_json"),
        (b"[]", "not_object"),
        (b"null", "not_object"),
        (b"17", "not_object"),
        (b"{}", "no_event"),
        (b'{"event": null}', "no_event"),
        (b'{"event": 5}', "no_event"),
        (b'{"event": {}}', "no_event"),
        (b'{"EVENT": "x"}', "no_event"),
        (b'{"event": "x", "payload": {"resource": "%s"}}' % ("\u00e9" * 201).encode(), "name_too_long"),
        (b'{"event": "x", "payload": {"method": 1%s}}' % (b"0" * 200), "name_too_long"),
    ],
)
def test_the_unreadable_says_why(body: bytes, reason: str) -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        read_envelope(body)

    assert refusal.value.reason == reason


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    reason = ""
    try:
        read_envelope(body)
    except UnreadableDelivery as error:
        reason = error.reason
    assert reason in ("", "empty_body", "not_json", "not_object", "no_event", "name_too_long")


@pytest.mark.parametrize(
    ("event", "carries"),
    [
        ("sync_job_run:record", True),
        ("record:created", True),
        ("record:deleted", True),
        ("sync_job_run:record_error", False),
        ("sync_job_run:started", False),
        ("test", False),
    ],
)
def test_which_events_bring_records(event: str, *, carries: bool) -> None:
    assert has_records(event) is carries
