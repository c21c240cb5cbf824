"""A probe's report holds no value, and no name that could be personal data."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.redis.observed_tests import ObservedTest
from app.webhook_probe.body_shape import MULTIPART, NOT_JSON, describe_events, parse_event
from app.webhook_probe.findings import answer_events, answer_requests
from app.webhook_probe.known_names import _WORDS, is_known_name

NAMES = st.text() | st.sampled_from(
    [
        *("records", "record", "meta", "sync_job_run", "sync_job_run_id", "args", "id", "method", "errors"),
        *("integrated_account", "integrated_account_id", "ada_integrated_account_id", "ada"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=20,
)
# All texts of a report that are no name: types, and the answers about the place of an id.
SEPARATORS = str.maketrans(dict.fromkeys("._-[]*,:()", " "))


@pytest.mark.parametrize(
    "name",
    [
        *("id", "sync_job_run_id", "syncJobRunId", "retryAfter", "remote_data", "created_at", "next-cursor"),
        *("crm_integrated_account_id", "resource_stats", "eventType", "RunID"),
    ],
)
def test_names_of_the_protocol_are_shown(name: str) -> None:
    assert is_known_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "ada@example.com",
            "ada_lovelace",
            "adaLovelace",
            "Ada",
            "+49 30 1234",
            "1815-12-10",
            "crm/contacts",
        ),
        *(
            "id_1815",
            "id 1",
            "account_ada",
            "ada_account",
            "",
            "_",
            "é",
            "\u0130d",
            "id\n",
            "id\0",
            "\u2170d",
        ),
        *("id_" * 7 + "id", "x" * 100_000, "a" * 79 + "!", "v5", "4", "ad", "idid1"),
    ],
)
def test_names_that_may_be_personal_data_are_not_shown(name: str) -> None:
    assert not is_known_name(name)


@given(JSON, JSON)
def test_a_shape_consists_of_words_of_the_protocol(payload: Any, member: Any) -> None:
    body = json.dumps(
        {"event": "x", "payload": payload, "records": [payload], "meta": {"a": member}}
    ).encode()
    event = parse_event(body)
    assert isinstance(event, dict)

    shape = describe_events([event])

    for path in shape:
        names = path.replace("[]", "").split(".")
        assert all(name == "*" or is_known_name(name) for name in names)
    assert {type_ for place in shape.values() for type_ in place.types} <= {
        *(
            "null",
            "boolean",
            "number",
            "object",
            "list",
            "empty list",
            "text",
            "text (digits)",
            "text (blank)",
        ),
        *(
            "text (UUID)",
            "text (time with T and Z)",
            "text (time with a space)",
            "text (time with T and offset)",
        ),
    }


def test_a_map_keyed_by_personal_data_is_one_place() -> None:
    people = {"ada@example.com": {"id": 1}, "grace@example.com": {"id": "x"}, "total": 2}

    shape = describe_events([{"payload": {"meta": people}}])

    assert set(shape) == {
        "payload",
        "payload.meta",
        "payload.meta.*",
        "payload.meta.*.id",
        "payload.meta.total",
    }
    assert (shape["payload.meta.*"].types, shape["payload.meta.*"].other_names) == ({"object"}, 2)
    assert shape["payload.meta.*.id"].types == {"number", "text"}
    assert shape["payload.meta.total"].other_names == 0


def test_the_members_of_a_record_are_not_followed() -> None:
    shape = describe_events([{"payload": {"records": [{"id": "1", "account": {"name": "Ada"}}]}}])

    assert "payload.records[].account" in shape
    assert "payload.records[].account.name" not in shape


def test_the_size_of_a_shape_is_bounded() -> None:
    deep: Any = "x"
    for _ in range(100):
        deep = {"value": [deep]}
    words = sorted(_WORDS)
    wide = {f"{first}_{second}": 1 for first in words[:40] for second in words[:40]}

    assert len(describe_events([{"payload": wide}])) <= 200
    assert len(describe_events([{"payload": deep}])) < 20


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'--boundary\r\nContent-Disposition: form-data; name="payload"\r\n\r\n{}\r\n', MULTIPART),
        (b"--\r\n", NOT_JSON),
        (b"", NOT_JSON),
        (b"[]", NOT_JSON),
        (b"[" * 100_000, NOT_JSON),
        (b"\xff", NOT_JSON),
    ],
)
def test_a_body_without_an_event_has_a_reason(body: bytes, reason: str) -> None:
    assert parse_event(body) == reason


@given(
    st.lists(JSON, max_size=3), st.sampled_from(["sync_job_run:record", "sync_job_run:record_error", "test"])
)
def test_answers_about_any_event_quote_none_of_its_values(payloads: list[Any], event: str) -> None:
    events = [
        {"id": "Ada", "event": event, "payload": payload, "created_at": payload} for payload in payloads
    ]

    answers = answer_events({event: events})

    words = {word for answer in answers.values() for word in answer.translate(SEPARATORS).split()}
    assert "Ada" not in words
    assert all(word in ANSWER_WORDS or is_known_name(word) for word in words)


# Beside the names of the protocol.
ANSWER_WORDS = set(
    """
    not seen none yes no its own that the event type a one empty null boolean digits blank UUID with T and Z
    space
    """.translate(SEPARATORS).split()
)


def observe(body: str, event: str = "1", *, at_s: float = 0.0, is_rejected: bool = False) -> ObservedTest:
    return ObservedTest("base64", True, "application/json", event, body, at_s, is_rejected)


def test_only_known_words_are_taken_from_redis() -> None:
    forged = ObservedTest("ada@example.com", True, "ada@example.com", "1", "1", 0.0)

    answers = answer_requests([forged])

    assert (answers["mac encoding"], answers["content type"]) == ("not seen", "other")


@pytest.mark.parametrize(
    ("requests", "retry", "wait"),
    [
        ([], "not seen", "not seen"),
        ([observe("a")], "not seen", "not seen"),
        ([observe("a"), observe("b", is_rejected=True)], "none", "none"),
        (
            [observe("a"), observe("b", is_rejected=True), observe("b", at_s=2.04)],
            "the same id and body",
            "2.0 s",
        ),
        ([observe("a"), observe("b", is_rejected=True), observe("c")], "the same id, another body", "0.0 s"),
        ([observe("a"), observe("b", is_rejected=True), observe("c", "2")], "another id", "0.0 s"),
    ],
)
def test_a_retry_is_compared_with_the_rejected_request(
    requests: list[ObservedTest], retry: str, wait: str
) -> None:
    answers = answer_requests(requests)

    assert (answers["retry"], answers["wait before the retry"]) == (retry, wait)


@pytest.mark.parametrize(
    ("encodings", "answer"),
    [
        (["base64", "base64url"], "base64url"),
        (["base64-unpadded", "base64url-unpadded"], "base64url-unpadded"),
        (["hex", "base64"], "base64, hex"),
    ],
)
def test_a_mac_of_both_alphabets_does_not_hide_the_encoding(encodings: list[str], answer: str) -> None:
    requests = [ObservedTest(encoding, True, "", "1", "1", 0.0) for encoding in encodings]

    assert answer_requests(requests)["mac encoding"] == answer
