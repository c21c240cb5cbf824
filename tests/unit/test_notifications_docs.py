"""What docs/notifications.md says is so."""

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.config.notify import NOTIFICATION_KINDS, NotifyConfig
from app.config.routes_file import read_routes
from app.notify.message import write_message
from app.notify.slack import format_slack_text
from app.store.notifications import Notification

TEXT = (Path(__file__).parents[2] / "docs/notifications.md").read_text()
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def block(mark: str) -> str:
    """The code block that follows a mark."""
    return TEXT.partition(f"<!-- {mark} -->")[2].partition("```")[2].partition("\n")[2].partition("```")[0]


def test_its_endpoints_can_be_told() -> None:
    variables = {"NOTIFY_SECRET": SECRET, "SLACK_URL": "https://hooks.slack.example/x"}

    routes = read_routes(f"sinks = {{}}\n{block('routes')}", source="docs", variables=variables)

    assert [(spec.name, spec.form) for spec in routes.notify] == [("ops", "standard"), ("team", "slack")]
    keys = re.findall(r"^\| `(\w+)` \|", TEXT.partition("## What they are told of")[0], re.MULTILINE)
    assert sorted(keys) == sorted(NotifyConfig.model_fields)


def test_its_kinds_are_those_that_there_are() -> None:
    told_of = TEXT.partition("## What they are told of")[2].partition("\n## ")[0]

    assert tuple(re.findall(r"^\| `([\w.]+)` \|", told_of, re.MULTILINE)) == NOTIFICATION_KINDS
    assert tuple(json.loads(line)["type"] for line in block("examples").splitlines()) == NOTIFICATION_KINDS


@pytest.mark.parametrize("line", block("examples").splitlines(), ids=NOTIFICATION_KINDS)
def test_its_examples_are_written_like_that(line: str) -> None:
    example = json.loads(line)
    notice = Notification(
        example["type"], "x", "x", datetime.fromisoformat(example["timestamp"]), example["data"]
    )

    message = write_message(
        NotifyConfig(name="x", url="https://x", secret=SECRET), notice, now=notice.occurred_at
    )

    assert json.loads(message.body) == example
    assert "?" not in format_slack_text(example["type"], example["data"])


def test_its_check_takes_what_is_signed_and_nothing_else() -> None:
    found: dict[str, Any] = {}
    exec(block("verify"), found)
    notice = Notification("run.reconciled", "r", "c", datetime.now(UTC), {"sync_job_run_id": "r"})
    spec = NotifyConfig(name="x", url="https://x", secret=SECRET)
    message = write_message(spec, notice, now=datetime.now(UTC))
    old = write_message(spec, notice, now=datetime.fromtimestamp(time.time() - 3600, UTC))

    found["verify"](message.headers, message.body, SECRET)

    for headers, body, secret in (
        (message.headers, message.body + b" ", SECRET),
        ({**message.headers, "webhook-id": "msg_other"}, message.body, SECRET),
        (message.headers, message.body, "whsec_" + "A" * 32),
        (old.headers, old.body, SECRET),
    ):
        with pytest.raises(ValueError, match=r"not from here|too old"):
            found["verify"](headers, body, secret)
