"""HTTP messages of notifications, in a subscriber's form.

"standard" is JSON signed by the rules of Standard Webhooks; "slack" is a text without a signature.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

from app.config.notify import NotifyConfig
from app.notify.slack import format_slack_text


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


def write_message(config: NotifyConfig, notification: NotificationContent, *, now: datetime) -> Message:
    """Return the message of a notification. now: the time of sending, which the signature covers."""
    headers = {"Content-Type": "application/json", "User-Agent": "rapidbridge-receiver"}
    if config.form == "slack":
        return Message(
            _to_json({"text": format_slack_text(notification.kind, notification.payload)}), headers
        )
    at = notification.occurred_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    body = _to_json({"type": notification.kind, "timestamp": at, "data": notification.payload})
    # The id depends on the notification alone, so that a subscriber can recognize a repeated message.
    message_id, timestamp = f"msg_{notification.id.hex}", int(now.timestamp())
    signed = {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign_message(config.signing_key, message_id, timestamp, body),
    }
    return Message(body, headers | signed)


def sign_message(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of the header webhook-signature. timestamp: seconds since 1970.

    Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    mac = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(mac).decode()}"


def _to_json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
