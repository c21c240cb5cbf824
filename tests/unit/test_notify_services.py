"""Messages for Microsoft Teams and PagerDuty: within the limits of the services, and safe with hostile names."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from app.config.notify import NOTIFICATION_KINDS, NotifyConfig
from app.notify.links import build_link
from app.notify.message import write_message
from app.notify.pagerduty import get_severity
from app.store.notifications import Notification

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
KEY = "a1B2c3D4" * 4
TEAMS = NotifyConfig(name="team", url="https://x", form="teams")
PAGER = NotifyConfig(name="pager", url="https://x", form="pagerduty", secret=KEY)
STANDARD = NotifyConfig(name="ops", url="https://x", secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
SLACK = NotifyConfig(name="slack", url="https://x", form="slack")
SITE = "https://sync.example.com"
HOSTILE = "[click](https://evil.example) <at>all</at> **bold**\n![x](https://evil.example/x.png)"


def write(
    config: NotifyConfig,
    kind: str,
    payload: dict[str, Any],
    *,
    public_url: str = SITE,
    is_ending: bool = False,
) -> Any:
    notification = Notification(kind, "subject", "cause", NOW, payload)
    return json.loads(
        write_message(config, notification, now=NOW, public_url=public_url, is_ending=is_ending).body
    )


def read_card(message: Any) -> tuple[Any, list[list[Any]]]:
    [attachment] = message["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    return attachment["content"], [block["inlines"] for block in attachment["content"]["body"]]


def test_a_teams_message_is_a_card_with_a_link() -> None:
    card, [first] = read_card(
        write(TEAMS, "sink.failing", {"sink": "main", "reason": "away", "deliveries": 2})
    )

    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert [run["text"] for run in first] == ["Sink failing: ", "main since ?: away. 2 deliveries waiting."]
    assert first[0]["weight"] == "bolder"
    assert card["actions"] == [
        {"type": "Action.OpenUrl", "title": "Open the dashboard", "url": "https://sync.example.com/sinks"}
    ]


def test_a_name_is_never_formatted_by_teams() -> None:
    card, lines = read_card(write(TEAMS, "sink.failing", {"sink": HOSTILE}))

    # Only a RichTextBlock shows its text without formatting it.
    assert {block["type"] for block in card["body"]} == {"RichTextBlock"}
    assert {run["type"] for line in lines for run in line} == {"TextRun"}
    assert "entities" not in json.dumps(card)


@pytest.mark.parametrize("sink", ["x" * 100_000, "\n" * 100_000, "\U0001f600" * 100_000, "\ud800" * 100_000])
def test_a_teams_message_has_less_than_28_kilobytes(sink: str) -> None:
    notification = Notification("sink.failing", sink, "c", NOW, {"sink": sink})

    assert len(write_message(TEAMS, notification, now=NOW, public_url=SITE).body) < 28 * 1024


def test_a_pagerduty_event_triggers_an_incident_and_its_end_resolves_it() -> None:
    payload = {"sink": "main", "reason": "away", "since": "now", "deliveries": 2}

    trigger = write(PAGER, "sink.failing", payload)
    resolve = write(PAGER, "sink.failing", payload, is_ending=True)

    assert trigger == {
        "routing_key": KEY,
        "dedup_key": Notification("sink.failing", "subject", "cause", NOW, {}).id.hex,
        "event_action": "trigger",
        "client": "RapidBridge receiver",
        "client_url": f"{SITE}/sinks",
        "links": [{"href": f"{SITE}/sinks", "text": "Open the dashboard"}],
        "payload": {
            "summary": "Sink failing: main since now: away. 2 deliveries waiting.",
            "source": "rapidbridge-receiver",
            "severity": "error",
            "timestamp": "2026-11-24T12:00:00+00:00",
            "class": "sink.failing",
            "custom_details": payload,
        },
    }
    assert resolve == {"routing_key": KEY, "dedup_key": trigger["dedup_key"], "event_action": "resolve"}


def test_a_pagerduty_event_is_within_its_limits() -> None:
    resource = {"resource": "r" * 500, "method": "list", "missing": 1, "fetched": 2, "sinks": []}
    notification = Notification("run.incomplete", "r", "c", NOW, {"resources": [resource] * 5000})

    body = write_message(PAGER, notification, now=NOW).body

    assert len(body) < 512 * 1024
    event = json.loads(body)["payload"]
    assert len(event["summary"]) <= 1024
    assert (len(event["custom_details"]["resources"]), event["custom_details"]["more_resources"]) == (
        50,
        4950,
    )


def test_every_kind_has_a_severity_and_good_news_opens_no_incident() -> None:
    incidents = {kind: get_severity(kind) for kind in NOTIFICATION_KINDS if PAGER.accepts(kind)}

    assert not {"run.reconciled", "sink.recovered"} & incidents.keys()
    assert incidents["workers.missing"] == incidents["webhook.unauthorized"] == "critical"
    assert incidents["run.incomplete"] == "error"
    assert incidents["worker.outdated"] == "warning"
    assert set(NOTIFICATION_KINDS) - incidents.keys() <= {"run.reconciled", "sink.recovered"}


@pytest.mark.parametrize("config", [STANDARD, SLACK, TEAMS, PAGER], ids=lambda config: config.form)
def test_without_an_address_a_message_has_no_link(config: NotifyConfig) -> None:
    message = json.dumps(write(config, "sink.failing", {"sink": "main"}, public_url=""))

    assert "dashboard" not in message
    assert '"url"' not in message


def test_a_standard_message_has_its_link_beside_its_data() -> None:
    message = write(STANDARD, "run.stalled", {"sync_job_run_id": "r/1"})

    assert message["data"] == {"sync_job_run_id": "r/1", "url": f"{SITE}/runs/r%2F1"}


def test_a_slack_text_ends_with_its_link() -> None:
    message = write(SLACK, "delivery.failed", {"reason": "no_route", "deliveries": 1, "since": "now"})

    assert message["text"].endswith(f" <{SITE}/failed?reason=no_route|Open the dashboard>")


@pytest.mark.parametrize(
    ("kind", "payload", "page"),
    [
        ("run.incomplete", {"sync_job_run_id": "a b?/#"}, "/runs/a%20b%3F%2F%23"),
        ("key.missing", {"delivery": "019ab5c0"}, "/deliveries/019ab5c0"),
        ("delivery.failed", {"reason": "x&y"}, "/failed?reason=x%26y"),
        ("account.unknown", {}, "/failed?reason=no_account"),
        ("delivery.delayed", {}, "/deliveries?state=pending"),
        ("workers.missing", {}, "/overview"),
        ("moon.full", {}, "/overview"),
    ],
)
def test_a_link_leads_to_the_page_of_the_notification(kind: str, payload: dict[str, Any], page: str) -> None:
    assert build_link(SITE, kind, payload) == SITE + page
