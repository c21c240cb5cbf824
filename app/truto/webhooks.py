"""A webhook of Truto's: where it sends which events."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.truto.fields import as_text


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook; what an answer does not tell is "", None or ().

    is_active: False once Truto has switched it off. secret: told by Truto once, when the webhook is created.
    Source: docs/protocol.md, "The API".
    """

    id: str
    target_url: str = ""
    is_active: bool | None = None
    event_types: tuple[str, ...] = ()
    secret: str = field(default="", repr=False)


def read_webhook(answer: Mapping[str, Any]) -> Webhook | None:
    """Read a webhook from decoded JSON; None where it has no id."""
    webhook_id, is_active, types = (answer.get(name) for name in ("id", "is_active", "event_types"))
    if not as_text(webhook_id):
        return None
    return Webhook(
        id=as_text(webhook_id),
        target_url=as_text(answer.get("target_url")),
        is_active=is_active if isinstance(is_active, bool) else None,
        event_types=tuple(filter(None, map(as_text, types if isinstance(types, list) else ()))),
        secret=as_text(answer.get("secret")),
    )
