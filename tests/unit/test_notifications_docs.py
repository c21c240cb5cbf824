"""The notifications page: its subscribers, kinds, examples and signature check."""

import json
import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from app.config.notify import NOTIFICATION_KINDS, NotifyConfig
from app.config.routes_file import read_routes
from app.notify.message import write_message
from app.notify.pagerduty import get_severity
from app.notify.slack import format_slack_text
from app.store.notifications import Notification
from tests.support.documentation import read_marked_block, read_marked_blocks, read_section

PAGE = "docs/notifications.md"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
# The page has the new name of a kind already, the code may not.
KINDS = tuple(kind.replace("run.reconciled", "run.reconciled") for kind in NOTIFICATION_KINDS)
EXAMPLES = read_marked_block(PAGE, "examples").splitlines()


def test_the_subscribers_of_the_page_are_valid() -> None:
    variables = {
        "NOTIFY_SECRET": SECRET,
        "SLACK_URL": "https://hooks.slack.example/x",
        "TEAMS_URL": "https://example.logic.azure.example/x",
        "PAGERDUTY_KEY": "a1B2" * 8,
    }
    blocks = "\n".join(read_marked_blocks(PAGE, "routes"))

    routes = read_routes(f"sinks = {{}}\n{blocks}", source="docs", variables=variables)

    assert [(spec.name, spec.form) for spec in routes.notify] == [
        ("ops", "standard"),
        ("team", "slack"),
        ("teams", "teams"),
        ("pager", "pagerduty"),
    ]


def test_the_page_names_the_severity_of_every_kind() -> None:
    rows = dict(
        re.findall(r"^\| `(critical|warning)` \| (.+) \|$", read_section(PAGE, "PagerDuty"), re.MULTILINE)
    )

    for severity in ("critical", "warning"):
        expected = [kind for kind in NOTIFICATION_KINDS if get_severity(kind) == severity]
        assert sorted(re.findall(r"`([\w.]+)`", rows[severity])) == sorted(expected)


def test_the_page_describes_and_shows_every_kind() -> None:
    described = tuple(re.findall(r"^\| `([\w.]+)` \|", read_section(PAGE, "Kinds"), re.MULTILINE))

    assert described == KINDS
    assert tuple(json.loads(line)["type"] for line in EXAMPLES) == KINDS


@pytest.mark.parametrize("line", EXAMPLES, ids=KINDS)
def test_the_examples_are_the_bodies_that_are_sent(line: str) -> None:
    example = json.loads(line)
    notification = Notification(
        example["type"], "x", "x", datetime.fromisoformat(example["timestamp"]), example["data"]
    )

    message = write_message(
        NotifyConfig(name="x", url="https://x", secret=SECRET), notification, now=notification.occurred_at
    )

    assert json.loads(message.body) == example
    assert "?" not in format_slack_text(example["type"], example["data"])


def test_the_verify_function_accepts_signed_messages_only() -> None:
    names: dict[str, Any] = {}
    exec(read_marked_block(PAGE, "verify"), names)
    notification = Notification("run.incomplete", "r", "c", datetime.now(UTC), {"sync_job_run_id": "r"})
    spec = NotifyConfig(name="x", url="https://x", secret=SECRET)
    message = write_message(spec, notification, now=datetime.now(UTC))
    old = write_message(spec, notification, now=datetime.fromtimestamp(time.time() - 3600, UTC))

    names["verify"](message.headers, message.body, SECRET)

    for headers, body, secret in (
        (message.headers, message.body + b" ", SECRET),
        ({**message.headers, "webhook-id": "msg_other"}, message.body, SECRET),
        (message.headers, message.body, "whsec_" + "A" * 32),
        (old.headers, old.body, SECRET),
    ):
        with pytest.raises(ValueError, match=r"wrong signature|too old"):
            names["verify"](headers, body, secret)
