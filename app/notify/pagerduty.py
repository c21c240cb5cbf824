"""Events of notifications for PagerDuty.

A notification triggers an incident, and the end of its condition resolves it.

Source: https://developer.pagerduty.com/docs/events-api-v2/trigger-events/
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from app.notify.texts import split_title

Severity = Literal["critical", "error", "warning", "info"]

_MAX_SUMMARY_CHARS = 1024
# An event may have 512 KB, a run any number of resources.
_MAX_RESOURCES = 50
# Deliveries are being lost, or soon will be; all others are errors.
_CRITICAL = ("webhook.unauthorized", "webhook.rejected", "webhook.inactive", "workers.missing", "disk.low")
_WARNINGS = (
    "run.stalled",
    "run.stopped",
    "deletes.held",
    "key.missing",
    "delivery.delayed",
    "worker.outdated",
)


def build_pagerduty_event(
    routing_key: str,
    notification_id: UUID,
    kind: str,
    text: str,
    payload: Mapping[str, Any],
    *,
    occurred_at: datetime,
    link: str,
    is_ending: bool,
) -> dict[str, Any]:
    """Return the event of a notification.

    routing_key: of the integration. text: of the notification, with its title between asterisks.
    """
    # The key is equal for the end of the condition, and for repeated messages.
    key = {"routing_key": routing_key, "dedup_key": notification_id.hex}
    if is_ending:
        return {**key, "event_action": "resolve"}
    details = {
        "summary": _build_summary(text),
        "source": "rapidbridge-receiver",
        "severity": get_severity(kind),
        "timestamp": occurred_at.isoformat(),
        "class": kind,
        "custom_details": _limit_resources(payload),
    }
    links = {"client_url": link, "links": [{"href": link, "text": "Open the dashboard"}]} if link else {}
    return {**key, "event_action": "trigger", "client": "RapidBridge receiver", "payload": details, **links}


def get_severity(kind: str) -> Severity:
    """Return the severity of a kind."""
    if kind in _CRITICAL:
        return "critical"
    return "warning" if kind in _WARNINGS else "error"


def _build_summary(text: str) -> str:
    title, rest = split_title(text)
    summary = f"{title} {rest.strip()}".replace("\n", " ")
    return summary if len(summary) <= _MAX_SUMMARY_CHARS else summary[: _MAX_SUMMARY_CHARS - 1] + "…"


def _limit_resources(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    resources = payload.get("resources")
    if not isinstance(resources, list) or len(resources) <= _MAX_RESOURCES:
        return payload
    more = len(resources) - _MAX_RESOURCES
    return {**payload, "resources": resources[:_MAX_RESOURCES], "more_resources": more}
