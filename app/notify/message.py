"""HTTP messages of notifications, in a subscriber's form.

"standard" is JSON signed by the rules of Standard Webhooks; the others are the forms of Slack, Microsoft
Teams and PagerDuty, without a signature.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

from app.config.notify import NotifyConfig
from app.notify.links import build_link
from app.notify.pagerduty import build_pagerduty_event
from app.notify.slack import format_slack_text
from app.notify.teams import build_card
from app.notify.texts import format_text
from app.standard_webhooks import sign_message


class NotificationContent(Protocol):
    """The parts of a notification that a message contains."""

    @property
    def id(self) -> UUID: ...
    @property
    def kind(self) -> str: ...
    @property
    def occurred_at(self) -> datetime: ...
    @property
    def payload(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Message:
    """The body and headers of one POST."""

    body: bytes
    headers: Mapping[str, str]


def write_message(
    config: NotifyConfig,
    notification: NotificationContent,
    *,
    now: datetime,
    public_url: str = "",
    is_ending: bool = False,
) -> Message:
    """Return the message of a notification.

    now: the time of sending, which the signature covers. public_url: PUBLIC_URL, for a link. is_ending: the
    end of its condition, for a subscriber that receives ends.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "rapidbridge-receiver"}
    kind, payload = notification.kind, notification.payload
    link = build_link(public_url, kind, payload)
    match config.form:
        case "slack":
            return Message(_to_json({"text": format_slack_text(kind, payload, link=link)}), headers)
        case "teams":
            return Message(_to_json(build_card(format_text(kind, payload), link)), headers)
        case "pagerduty":
            event = build_pagerduty_event(
                config.secret,
                notification.id,
                kind,
                format_text(kind, payload),
                payload,
                occurred_at=notification.occurred_at,
                link=link,
                is_ending=is_ending,
            )
            return Message(_to_json(event), headers)
    at = notification.occurred_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    linked = {**payload, "url": link} if link else payload
    body = _to_json({"type": kind, "timestamp": at, "data": linked})
    # The id depends on the notification alone, so that a subscriber can recognize a repeated message.
    signed = sign_message(config.secret, f"msg_{notification.id.hex}", int(now.timestamp()), body)
    return Message(body, {**headers, **signed})


def _to_json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
