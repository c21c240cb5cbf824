"""A webhook of Truto's: where it sends which events, and which it should."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from app.truto.coerce import as_text

_RUN_EVENT_PREFIX = "sync_job_run:"
# What a webhook is to be subscribed to; why: docs/protocol.md, "Which events a webhook needs".
SUBSCRIBED_EVENTS = tuple(
    _RUN_EVENT_PREFIX + action
    for action in (
        *("record", "record_error", "created", "started", "updated"),
        *("rate_limited", "completed", "failed", "stopped", "deleted"),
    )
)
# One of each must come. Whether a stop is told as `stopped` or as `updated` is unconfirmed: either will do.
_REQUIRED_ACTIONS = (
    ("record",),
    ("record_error",),
    ("started",),
    ("completed",),
    ("failed",),
    ("stopped", "updated"),
)


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


def find_missing_events(event_types: Sequence[str]) -> tuple[str, ...]:
    """Return the events that a webhook lacks; a `*` in its own list stands for any."""
    return tuple(
        _RUN_EVENT_PREFIX + either[0]
        for either in _REQUIRED_ACTIONS
        if not any(fnmatchcase(_RUN_EVENT_PREFIX + action, has) for action in either for has in event_types)
    )
