"""Rules for a webhook's events and target URL, its secret in an env file, and payload shapes."""

import json

import pytest

from app.cli.deliveries.show import format_body
from app.cli.webhook.env_file import merge_secret
from app.cli.webhook.payload_shape import shape_lines
from app.errors import ConfigError
from app.truto.target_url import find_target_problem, redact_target_url
from app.truto.webhooks import SUBSCRIBED_EVENTS, find_missing_events, read_webhook
from tests.support.documentation import ROOT

NEW = "id=new"


@pytest.mark.parametrize(
    "event_types",
    [
        *(None, [], [""], ["all"], ["*"], "all", "*", ["record:created", "all"]),
        *(["sync_job_run:*", "integrated_account:created"], list(SUBSCRIBED_EVENTS)),
    ],
)
def test_a_webhook_that_gets_all_events_misses_none(event_types: object) -> None:
    webhook = read_webhook({"id": "w", "event_types": event_types})

    assert webhook
    assert find_missing_events(webhook.event_types) == ()


def test_missing_events_are_named() -> None:
    assert find_missing_events(["test"]) == tuple(
        f"sync_job_run:{action}"
        for action in ("record", "record_error", "started", "completed", "failed", "updated")
    )
    assert find_missing_events([event for event in SUBSCRIBED_EVENTS if not event.endswith(":failed")]) == (
        "sync_job_run:failed",
    )


def test_no_event_is_subscribed_that_truto_does_not_have() -> None:
    assert "sync_job_run:stopped" not in SUBSCRIBED_EVENTS
    assert "sync_job_run:updated" in SUBSCRIBED_EVENTS


@pytest.mark.parametrize("action", ["stopped", "updated"])
def test_one_of_the_two_stop_events_is_enough(action: str) -> None:
    others = [event for event in SUBSCRIBED_EVENTS if event.partition(":")[2] not in ("stopped", "updated")]

    assert find_missing_events([*others, f"sync_job_run:{action}"]) == ()


def test_every_subscribed_event_is_documented() -> None:
    page = (ROOT / "docs/protocol.md").read_text()
    part = page.partition("## Which events a webhook needs")[2].partition("\n## ")[0]

    assert {event.partition(":")[2] for event in SUBSCRIBED_EVENTS} <= set(part.replace("`", " ").split())


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("https://sync.example.com/webhooks/truto", None),
        ("https://sync.example.com:8443/behind/a/proxy/webhooks/truto", None),
        ("http://sync.example.com/webhooks/truto", "HTTPS only"),
        ("https://localhost/webhooks/truto", "cannot reach"),
        ("https://127.0.0.1:8000/webhooks/truto", "cannot reach"),
        ("https://[::1]/webhooks/truto", "cannot reach"),
        ("https://10.0.0.7/webhooks/truto", "cannot reach"),
        ("https://receiver/webhooks/truto", "cannot reach"),
        ("https://receiver.local/webhooks/truto", "cannot reach"),
        ("https://sync.example.com", "/webhooks/truto"),
        ("https://sync.example.com/webhooks/truto/", None),
        ("https://sync.example.com/webhooks/truto//", "/webhooks/truto"),
        ("sync.example.com/webhooks/truto", "not a URL"),
        ("https://[broken/webhooks/truto", "not a URL"),
    ],
)
def test_a_target_url_that_truto_cannot_reach_is_a_problem(url: str, hint: str | None) -> None:
    problem = find_target_problem(url)

    assert problem is None if hint is None else hint in (problem or "")


def test_a_redacted_url_has_no_user_password_or_query() -> None:
    assert (
        redact_target_url("https://user:hunter2@h.example:8443/p?token=hunter2#x")
        == "https://h.example:8443/p"
    )
    assert redact_target_url("https://h.example/\x1b[2J") == "https://h.example/\ufffd[2J"
    assert redact_target_url("https://[::1]:1/p") == "https://[::1]:1/p"
    assert redact_target_url("https://h:port/hunter2") == "(not a URL)"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "TRUTO_WEBHOOK_SECRET=id=new\n"),
        ("PORT=1", "PORT=1\nTRUTO_WEBHOOK_SECRET=id=new\n"),
        ("A=1\nTRUTO_WEBHOOK_SECRET=old\nB=2\n", "A=1\nTRUTO_WEBHOOK_SECRET=old,id=new\nB=2\n"),
        ("TRUTO_WEBHOOK_SECRET=\n", "TRUTO_WEBHOOK_SECRET=id=new\n"),
        ("TRUTO_WEBHOOK_SECRET=a, w=b # two\n", "TRUTO_WEBHOOK_SECRET=a,w=b,id=new # two\n"),
        ("export TRUTO_WEBHOOK_SECRET = 'a,b'\n", "export TRUTO_WEBHOOK_SECRET = 'a,b,id=new'\n"),
        ('TRUTO_WEBHOOK_SECRET="a" # x\n', 'TRUTO_WEBHOOK_SECRET="a,id=new" # x\n'),
        ("TRUTO_WEBHOOK_SECRET=id=new\n", "TRUTO_WEBHOOK_SECRET=id=new\n"),
        (
            "TRUTO_WEBHOOK_SECRET=a\nTRUTO_WEBHOOK_SECRET=b\n",
            "TRUTO_WEBHOOK_SECRET=a\nTRUTO_WEBHOOK_SECRET=b,id=new\n",
        ),
        ("# TRUTO_WEBHOOK_SECRET=c\n", "# TRUTO_WEBHOOK_SECRET=c\nTRUTO_WEBHOOK_SECRET=id=new\n"),
        ("TRUTO_WEBHOOK_SECRETS=c\n", "TRUTO_WEBHOOK_SECRETS=c\nTRUTO_WEBHOOK_SECRET=id=new\n"),
        ("\ufeffTRUTO_WEBHOOK_SECRET=old\n", "\ufeffTRUTO_WEBHOOK_SECRET=old,id=new\n"),
        ("A=1\r\nTRUTO_WEBHOOK_SECRET=a\r\n", "A=1\r\nTRUTO_WEBHOOK_SECRET=a,id=new\r\n"),
    ],
)
def test_a_secret_is_appended_and_the_rest_is_unchanged(before: str, after: str) -> None:
    assert merge_secret(before, NEW) == after


@pytest.mark.parametrize("text", ['TRUTO_WEBHOOK_SECRET="a\nb"\n', "TRUTO_WEBHOOK_SECRET='a' 'b'\n"])
def test_a_value_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--env-file"):
        merge_secret(text, NEW)


def test_a_payload_is_shown_by_its_field_names_only() -> None:
    records = [{"id": 1, "name": "Ada"}, {"id": 2, "email": "a@b"}]
    body = json.dumps({"event": "e", "payload": {"resource": "crm/contacts", "records": records}}).encode()

    lines = list(shape_lines(body, with_values=False))

    assert lines == ["payload: resource, records", "2 records: id, name, email"]
    assert "Ada" in "".join(shape_lines(body, with_values=True))


def test_numbers_are_shown_as_they_were_sent() -> None:
    body = b'{"payload": {"amount": 100000000000000000.01, "share": 1.10}}'

    shown = "\n".join(shape_lines(body, with_values=True))

    assert shown == format_body(body) == '{\n  "amount": 100000000000000000.01,\n  "share": 1.10\n}'


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        ({}, "payload: no fields"),
        (None, "payload: null"),
        (["x"], "payload: a list"),
        ({"record": {"id": 1}}, "1 record: id"),
        ({"records": [1, 2]}, "2 records: a number"),
        ({"\x1b[2J": 1}, "payload: \ufffd[2J"),
        ({str(number): 1 for number in range(15)}, "and 3 more"),
    ],
)
def test_unusual_payloads_are_shown(payload: object, line: str) -> None:
    shown_lines = "\n".join(shape_lines(json.dumps({"payload": payload}).encode(), with_values=False))

    assert line in shown_lines


def test_a_body_that_is_not_json_is_shown_without_control_characters() -> None:
    assert list(shape_lines(b"\x1b[2J", with_values=False)) == ["not JSON"]
    assert "\x1b" not in "".join(shape_lines(b"\x1b[2J", with_values=True))
    assert "\x1b" not in "".join(shape_lines(b'{"payload": "\\u001b\xc2\x9b"}', with_values=True))
