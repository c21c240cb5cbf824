"""Messages of notifications: signed by the standard, or texts that Slack shows."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from app.config.notify import NOTIFICATION_KINDS, NotifyConfig
from app.notify.message import write_message
from app.notify.slack import format_slack_text
from app.standard_webhooks import sign_message
from app.store.notifications import Notification

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STANDARD = NotifyConfig(name="ops", url="https://x", secret=SECRET)
SLACK = NotifyConfig(name="team", url="https://x", form="slack")
NOW = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
RUN = {"sync_job_run_id": "r1", "sync_job_id": "j1", "integrated_account_id": "a1"}


def resource(**counts: object) -> dict[str, object]:
    complete = {"fetched": 1200, "arrived": 1200, "written": 1200, "dead": 0, "missing": 0}
    return {"resource": "crm/contacts", "method": "list", **complete, **counts}


def test_the_signature_equals_the_example_of_the_standard() -> None:
    headers = sign_message(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_standard_message_follows_standard_webhooks() -> None:
    notification = Notification("sink.failing", "main", "c", NOW, {"sink": "main", "reason": "ü\ud800"})

    message = write_message(STANDARD, notification, now=datetime(2026, 11, 25, tzinfo=UTC))

    assert json.loads(message.body) == {
        "type": "sink.failing",
        "timestamp": "2026-11-24T12:00:00.123456Z",
        "data": {"sink": "main", "reason": "ü\ud800"},
    }
    assert message.headers["webhook-id"] == f"msg_{notification.id.hex}"
    assert message.headers["webhook-timestamp"] == "1795564800"
    signed = f"msg_{notification.id.hex}.1795564800.".encode() + message.body
    mac = hmac.new(base64.b64decode(SECRET[6:]), signed, hashlib.sha256).digest()
    assert message.headers["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"


def test_a_slack_message_is_a_text_without_a_signature() -> None:
    message = write_message(SLACK, Notification("sink.failing", "main", "c", NOW, {"sink": "main"}), now=NOW)

    assert json.loads(message.body)["text"].startswith("*Sink failing:* main since ?")
    assert message.headers.keys() == {"Content-Type", "User-Agent"}


@pytest.mark.parametrize(
    ("kind", "payload", "text"),
    [
        (
            "run.reconciled",
            {
                **RUN,
                "status": "completed",
                "verdict": "complete",
                "resources": [resource(), resource(written=34)],
                "record_errors": 1,
            },
            "*Run reconciled:* r1 (job j1, account a1) is completed, verdict: complete. 1,234 records of 2 resources written; Truto reported 1 error.",
        ),
        (
            "run.incomplete",
            {
                **RUN,
                "status": "completed",
                "verdict": "missing",
                "resources": [resource(), resource(missing=1100, dead=2), resource(resource="crm/deals", dead=1)],
                "record_errors": 0,
            },
            "*Run incomplete:* r1 (job j1, account a1) is completed, verdict: missing.\n"
            "• crm/contacts list: 1,100 missing of 1,200, 2 dead\n"
            "• crm/deals list: 1 dead",
        ),
        (
            "run.stalled",
            {**RUN, "status": "running", "last_seen_at": "2026-11-24T11:00:00Z", "silent_s": 3599.5},
            "*Run stalled:* no event of r1 (job j1, account a1) for 59 min, since 2026-11-24T11:00:00Z. Last status: running.",
        ),
        (
            "run.stopped",
            {**RUN, "status": "running", "reason": "too many errors", "by": "limit", "is_asked": False},
            "*Run stopped* by a limit: r1 (job j1, account a1) is running. Reason: too many errors. Truto did not accept the stop, so the run may continue.",
        ),
        (
            "run.stopped",
            {**RUN, "status": "running", "reason": "requested by an operator", "by": "operator"},
            "*Run stopped* by an operator: r1 (job j1, account a1) is running. Reason: requested by an operator.",
        ),
        (
            "run.stopped",
            {**RUN, "status": "stopped", "reason": "a user did", "by": "truto", "is_asked": True},
            "*Run stopped* by Truto: r1 (job j1, account a1) is stopped. Reason: a user did.",
        ),
        (
            "sink.failing",
            {"sink": "lake", "reason": "sink_unavailable", "since": "2026-11-24T11:00:00Z", "deliveries": 1},
            "*Sink failing:* lake since 2026-11-24T11:00:00Z: sink_unavailable. 1 delivery waiting.",
        ),
        (
            "sink.failing",
            {"sink": "main", "reason": "sink_set_up", "message": "table x", "since": "now", "deliveries": 2},
            "*Sink failing:* main since now: sink_set_up. 2 deliveries waiting. table x",
        ),
        (
            "workers.missing",
            {"since": "now", "deliveries": 10_000, "is_exact": False},
            "*Workers missing:* no worker process has been alive since now; 10,000+ deliveries pending. "
            "Read the log of `rapidbridge worker`, and restart it.",
        ),
        (
            "sink.recovered",
            {"sink": "lake", "failing_s": 120, "deliveries": 10_003, "is_exact": False},
            "*Sink recovered:* lake works again after 2 min. 10,003+ deliveries waited; workers write them now.",
        ),
        (
            "key.missing",
            {
                "resource": "crm/contacts",
                "integrated_account_id": "a1",
                "delivery": "d1",
                "key": "properties.id",
                "missing_key": "hash",
            },
            "*Key missing:* no record of delivery d1 has the key properties.id (resource crm/contacts, account "
            "a1). Each version of such a record becomes a new row. Correct the key of the route.",
        ),
        (
            "key.missing",
            {"missing_key": "reject"},
            "*Key missing:* no record of delivery ? has the key ? (resource ?, account ?). These records are "
            "rejected. Correct the key of the route.",
        ),
        (
            "webhook.inactive",
            {"webhook_id": "w1", "is_reactivated": False},
            "*Webhook inactive:* Truto deactivated w1. No events arrive until it is activated at Truto.",
        ),
        (
            "webhook.inactive",
            {"webhook_id": "w1", "is_reactivated": True},
            "*Webhook inactive:* Truto deactivated w1. It is active again; check which events failed in between.",
        ),
        ("moon.full", {"phase": 1, "places": ["x"]}, "*moon.full* phase: 1"),
    ],
)  # fmt: skip
def test_every_kind_has_its_slack_text(kind: str, payload: Mapping[str, Any], text: str) -> None:
    assert format_slack_text(kind, payload) == text


@pytest.mark.parametrize("kind", NOTIFICATION_KINDS)
def test_a_slack_text_tolerates_missing_and_unexpected_members(kind: str) -> None:
    assert format_slack_text(kind, {}) != format_slack_text("other", {})
    odd = format_slack_text(
        kind, {"status": None, "silent_s": None, "resources": None, "by": ["x"], "new": {"a": 1}}
    )
    assert "None" not in odd


def test_a_name_cannot_mention_a_user_or_channel_in_slack() -> None:
    payload = {"sink": "<!channel> & <@U1>", "reason": "x" * 9000}

    text = format_slack_text("sink.failing", payload)

    assert "&lt;!channel&gt; &amp; &lt;@U1&gt;" in text
    assert "<" not in text
    assert len(text) < 3100


def test_a_list_of_gaps_is_limited_to_ten_resources() -> None:
    text = format_slack_text("run.incomplete", {"resources": [resource(missing=n + 1) for n in range(13)]})

    assert text.count("\n") == 11
    assert text.endswith("\n• and 3 more resources")
