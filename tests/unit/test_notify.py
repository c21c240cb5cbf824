"""What is sent: signed as the standard says, and in words that Slack shows."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from app.config.notify import NOTIFICATION_KINDS, NotifyConfig
from app.notify.message import sign_message, write_message
from app.notify.slack import format_slack_text
from app.store.notifications import Notification

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STANDARD = NotifyConfig(name="ops", url="https://x", secret=SECRET)
SLACK = NotifyConfig(name="team", url="https://x", form="slack")
NOW = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
RUN = {"sync_job_run_id": "r1", "sync_job_id": "j1", "integrated_account_id": "a1"}


def resource(**figures: object) -> dict[str, object]:
    plain = {"fetched": 1200, "arrived": 1200, "written": 1200, "dead": 0, "missing": 0}
    return {"resource": "crm/contacts", "method": "list", **plain, **figures}


def test_the_signature_is_that_of_the_standards_example() -> None:
    signature = sign_message(
        STANDARD.signing_key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )

    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_notice_is_written_as_the_standard_says() -> None:
    notice = Notification("sink.failing", "main", "c", NOW, {"sink": "main", "reason": "ü\ud800"})

    message = write_message(STANDARD, notice, now=datetime(2026, 11, 25, tzinfo=UTC))

    assert json.loads(message.body) == {
        "type": "sink.failing",
        "timestamp": "2026-11-24T12:00:00.123456Z",
        "data": {"sink": "main", "reason": "ü\ud800"},
    }
    assert message.headers["webhook-id"] == f"msg_{notice.id.hex}"
    assert message.headers["webhook-timestamp"] == "1795564800"
    signed = f"msg_{notice.id.hex}.1795564800.".encode() + message.body
    mac = hmac.new(base64.b64decode(SECRET[6:]), signed, hashlib.sha256).digest()
    assert message.headers["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"


def test_slack_gets_a_text_and_no_signature() -> None:
    message = write_message(SLACK, Notification("sink.failing", "main", "c", NOW, {"sink": "main"}), now=NOW)

    assert json.loads(message.body)["text"].startswith("*Sink failing:* main since ?")
    assert message.headers.keys() == {"Content-Type", "User-Agent"}


@pytest.mark.parametrize(
    ("kind", "told", "text"),
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
            "*Run stalled:* nothing came of r1 (job j1, account a1) for 59 min, since 2026-11-24T11:00:00Z. Truto last said: running.",
        ),
        (
            "run.stopped",
            {**RUN, "status": "running", "reason": "too many errors", "by": "limit", "is_asked": False},
            "*Run stopped* by a limit: r1 (job j1, account a1) is running. Reason: too many errors. Truto did not take that: it may go on.",
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
            "webhook.inactive",
            {"webhook_id": "w1", "is_reactivated": False},
            "*Webhook inactive:* Truto switched w1 off. Nothing comes until it is activated again at Truto.",
        ),
        (
            "webhook.inactive",
            {"webhook_id": "w1", "is_reactivated": True},
            "*Webhook inactive:* Truto switched w1 off. It was activated again; see what failed meanwhile.",
        ),
        ("moon.full", {"phase": 1, "seen": ["x"]}, "*moon.full* phase: 1"),
    ],
)  # fmt: skip
def test_slack_is_told_in_words(kind: str, told: Mapping[str, Any], text: str) -> None:
    assert format_slack_text(kind, told) == text


@pytest.mark.parametrize("kind", NOTIFICATION_KINDS)
def test_every_kind_has_words_of_its_own_that_nothing_breaks(kind: str) -> None:
    assert format_slack_text(kind, {}) != format_slack_text("other", {})
    odd = format_slack_text(
        kind, {"status": None, "silent_s": None, "resources": None, "by": ["x"], "new": {"a": 1}}
    )
    assert "None" not in odd


def test_what_a_customer_names_calls_nobody_in_slack() -> None:
    told = {"sink": "<!channel> & <@U1>", "reason": "x" * 9000}

    text = format_slack_text("sink.failing", told)

    assert "&lt;!channel&gt; &amp; &lt;@U1&gt;" in text
    assert "<" not in text
    assert len(text) < 3100


def test_a_list_of_gaps_ends_somewhere() -> None:
    text = format_slack_text("run.incomplete", {"resources": [resource(missing=n + 1) for n in range(13)]})

    assert text.count("\n") == 11
    assert text.endswith("\n• and 3 more resources")
