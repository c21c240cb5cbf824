"""An event's envelope is read from any shape of body."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import UnreadableDelivery
from app.truto.events import Envelope, has_records, read_envelope

# Values that no fast parser accepts, but that a batch may contain.
UNPARSEABLE_VALUES = [
    "[" * 5000 + "]" * 5000,
    "[" * 100_000 + "]" * 100_000,
    "9" * 5000,
    '"\\ud800"',
    '"a\nb"',
    '{"a": 1,}',
    "nonsense",
]
# A body over 256 KiB is not parsed whole.
LARGE_TEXT = f'"{"x" * 300_000}"'


def envelope(payload: object = None, **members: object) -> Envelope:
    return read_envelope(json.dumps({"event": "sync_job_run:record", "payload": payload, **members}).encode())


def test_every_field_is_read() -> None:
    parsed = envelope(
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

    assert parsed == Envelope(
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
        ("2026-11-24T10:00\0", None),
        ("2026-11-24\ufffd10:00", None),
        ("soon", None),
        ("", None),
        (1726000000, None),
        (None, None),
        ({}, None),
    ],
)
def test_created_at_is_parsed_in_every_format(text: object, time: datetime | None) -> None:
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
@pytest.mark.parametrize(
    "unparseable",
    [None, *UNPARSEABLE_VALUES, LARGE_TEXT, f"NaN, {LARGE_TEXT}"],
    ids=lambda unparseable: str(unparseable)[:8],
)
def test_ids_are_found_in_every_place_truto_may_put_them(
    payload: dict[str, Any], unparseable: str | None
) -> None:
    # A record that the fast decoder rejects makes the scanner read the envelope, with the same result.
    record = unparseable or "{}"
    text = json.dumps({"event": "sync_job_run:record", "payload": {**payload, "records": ["UNPARSEABLE"]}})

    parsed = read_envelope(text.replace('"UNPARSEABLE"', record).encode())

    ids = (
        parsed.sync_job_run_id,
        parsed.sync_job_id,
        parsed.integrated_account_id,
        parsed.resource,
        parsed.method,
    )
    assert ids == ("r", "j", "a", "x", "m")


@pytest.mark.parametrize("action", ["created", "started", "updated", "completed", "failed", "stopped", "new"])
def test_the_payload_of_a_lifecycle_event_is_its_run(action: str) -> None:
    payload = {"id": "r", "sync_job_id": "j", "integrated_account_id": "a", "webhook_id": "w", "status": "x"}

    parsed = envelope(payload, event=f"sync_job_run:{action}")

    assert (parsed.sync_job_run_id, parsed.sync_job_id, parsed.integrated_account_id) == ("r", "j", "a")


def test_the_id_of_a_record_is_not_the_run_id() -> None:
    assert envelope({"id": "x"}).sync_job_run_id == ""
    assert envelope({"id": "x"}, event="sync_job_run:record_error").sync_job_run_id == ""
    assert envelope({"id": "x"}, event="record:created").sync_job_run_id == ""


EVENT_NAME_MEMBERS = ["event", "event_type", "eventType"]


@pytest.mark.parametrize("name", EVENT_NAME_MEMBERS)
@pytest.mark.parametrize("record", ["{}", *UNPARSEABLE_VALUES, LARGE_TEXT], ids=lambda record: record[:8])
def test_the_event_is_read_under_every_name_of_its_member(name: str, record: str) -> None:
    body = f'{{"{name}": "sync_job_run:record", "payload": {{"records": [{record}], "resource": "x"}}}}'

    parsed = read_envelope(body.encode())

    assert (parsed.event, parsed.resource) == ("sync_job_run:record", "x")


@pytest.mark.parametrize("odd", [None, "", "  ", 7, 1.5, True, [], ["x"], {}, {"a": 1}])
@pytest.mark.parametrize("name", EVENT_NAME_MEMBERS)
def test_a_member_without_a_name_does_not_hide_the_others(name: str, odd: object) -> None:
    others = dict.fromkeys(EVENT_NAME_MEMBERS, odd)

    assert read_envelope(json.dumps(others | {name: "test"}).encode()).event == "test"
    with pytest.raises(UnreadableDelivery, match="no event name"):
        read_envelope(json.dumps(others).encode())


def test_of_several_names_of_the_event_the_documented_one_is_used() -> None:
    body = {"eventType": "c", "event_type": "b", "event": "a"}

    assert read_envelope(json.dumps(body).encode()).event == "a"


@pytest.mark.parametrize("odd", [None, "", "text", 7, 1.5, True, [], [1], {}, {"a": 1}])
@pytest.mark.parametrize("member", ["payload", "id", "webhook_id", "environment_id", "created_at"])
def test_an_unexpected_value_empties_only_its_own_field(member: str, odd: object) -> None:
    parsed = envelope(**{"payload": {"resource": "x"}, "environment_id": "n", member: odd})

    assert parsed.event == "sync_job_run:record"
    assert parsed.resource == ("" if member == "payload" else "x")


@pytest.mark.parametrize("odd", [None, "", "text", 7, 1.5, True, [], [1], {}, {"a": 1}])
def test_the_payload_of_a_large_event_may_be_anything(odd: object) -> None:
    assert envelope(odd, more="x" * 300_000).event == "sync_job_run:record"


@pytest.mark.parametrize("other", ["1", "NaN"])
@pytest.mark.parametrize("place", ["meta", "sync_job_run", "args"])
def test_ids_are_found_beside_large_values(place: str, other: str) -> None:
    ids = f'"sync_job_run_id": "r", "id": "r", "integrated_account_id": "a", "other": {other}'
    text = f'{{"event": "x", "payload": {{"{place}": {{"large": {LARGE_TEXT}, {ids}}}, "resource": "x"}}}}'

    parsed = read_envelope(text.encode())

    assert (parsed.resource, parsed.integrated_account_id) == ("x", "a")
    assert parsed.sync_job_run_id == ("" if place == "args" else "r")


def test_a_member_that_cannot_be_parsed_does_not_hide_the_ids_beside_it() -> None:
    text = f'{{"event": "x", "payload": {{"args": {{"n": {"9" * 5000}, "integrated_account_id": "a"}}}}}}'

    assert read_envelope(text.encode()).integrated_account_id == "a"


def test_a_numeric_id_becomes_text() -> None:
    assert envelope(id=17).event_id == "17"


def test_nul_and_lone_surrogates_are_replaced() -> None:
    body = b'{"event": "test", "id": "a\\u0000b\\ud800c"}'

    assert read_envelope(body).event_id == "a\ufffdb\ufffdc"


def test_invalid_utf8_in_a_record_does_not_affect_the_envelope() -> None:
    body = b'{"event": "sync_job_run:record", "payload": {"resource": "x", "records": ["\xff"]}}'

    assert read_envelope(body).resource == "x"


def test_a_byte_order_mark_is_ignored() -> None:
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
        (b'{"event": "%s"}' % (b"x" * 201), "name_too_long"),
        (b'{"event": "x", "id": "%s"}' % (b"x" * 4001), "name_too_long"),
        (b'{"event": "x", "webhook_id": "%s"}' % (b"x" * 300_000), "name_too_long"),
        (b'{"event": "x", "payload": {"meta": {"resource": "%s"}}}' % (b"x" * 300_000), "name_too_long"),
        (b" " * 300_000, "empty_body"),
        (b"[" + b"1," * 200_000 + b"1]", "not_object"),
        (b"1" * 300_000, "not_json"),
    ],
)
def test_an_unreadable_body_raises_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(UnreadableDelivery) as caught:
        read_envelope(body)

    assert caught.value.reason == reason


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_unreadable_delivery(body: bytes) -> None:
    reason = ""
    try:
        read_envelope(body)
    except UnreadableDelivery as error:
        reason = error.reason
    assert reason in ("", "empty_body", "not_json", "not_object", "no_event", "name_too_long")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("sync_job_run:record", True),
        ("record:created", True),
        ("record:updated", True),
        ("record:deleted", True),
        ("record:meta", False),
        ("record:reindexed", False),
        ("record:", False),
        ("record", False),
        ("sync_job_run:record_error", False),
        ("sync_job_run:started", False),
        ("test", False),
    ],
)
def test_only_record_events_have_records(event: str, *, expected: bool) -> None:
    assert has_records(event) is expected
