"""Truto's webhooks, and the events that they must subscribe to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from app.truto.coerce import as_text

_RUN_EVENT_PREFIX = "sync_job_run:"
# The events that a new webhook subscribes to. Source: docs/protocol.md, "Which events a webhook needs".
SUBSCRIBED_EVENTS = tuple(
    _RUN_EVENT_PREFIX + action
    for action in (
        *("record", "record_error", "created", "started", "updated"),
        *("rate_limited", "completed", "failed", "deleted"),
    )
)
# The events that Truto can simulate. Source: docs/protocol.md, "The API".
SIMULATED_EVENTS = (
    *SUBSCRIBED_EVENTS,
    *(f"record:{action}" for action in ("created", "updated", "deleted", "meta")),
    *(
        f"integrated_account:{action}"
        for action in (
            *("created", "updated", "deleted", "active", "reactivated", "post_connect_form_submitted"),
            *("post_install_error", "validation_error", "authentication_error", "forbidden_error"),
        )
    ),
    "link_token:connection_error",
    *(
        f"environment_{thing}:{action}"
        for thing in ("integration", "unified_model")
        for action in ("created", "updated", "deleted")
    ),
    *("api_token:created", "api_token:deleted", "sync_job_cron_trigger:failed"),
    *(f"batch_job:{action}" for action in ("dry_run_completed", "completed", "dry_run_failed", "failed")),
)
# At least one of each group is required. Truto reports a stop by `updated`, and lists no event `stopped`.
_REQUIRED_ACTIONS = (
    ("record",),
    ("record_error",),
    ("started",),
    ("completed",),
    ("failed",),
    ("updated", "stopped"),
)
_ALL_EVENTS = "all"


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook. A member that the answer leaves out is "", None or ().

    is_active: False once Truto has deactivated it. event_types: () for all events. secret: Truto returns it
    only when it creates a webhook.
    Source: docs/protocol.md, "The API".
    """

    id: str
    target_url: str = ""
    is_active: bool | None = None
    event_types: tuple[str, ...] = ()
    secret: str = field(default="", repr=False)


def read_webhook(answer: Mapping[str, Any]) -> Webhook | None:
    """Read a webhook from decoded JSON; None if it has no id."""
    webhook_id, is_active, types = (answer.get(name) for name in ("id", "is_active", "event_types"))
    if not as_text(webhook_id):
        return None
    type_list = types if isinstance(types, list) else [types]
    return Webhook(
        id=as_text(webhook_id),
        target_url=as_text(answer.get("target_url")),
        is_active=is_active if isinstance(is_active, bool) else None,
        event_types=tuple(filter(None, map(as_text, type_list))),
        secret=as_text(answer.get("secret")),
    )


def sends_all_events(event_types: Sequence[str]) -> bool:
    """Whether a webhook's list does not restrict its events: it is empty, or has `all` or `*`."""
    return not event_types or _ALL_EVENTS in event_types or "*" in event_types


def find_missing_events(event_types: Sequence[str]) -> tuple[str, ...]:
    """Return the required events that a webhook's list does not match; the list may hold `*` patterns."""
    if sends_all_events(event_types):
        return ()
    return tuple(
        _RUN_EVENT_PREFIX + actions[0]
        for actions in _REQUIRED_ACTIONS
        if not any(
            fnmatchcase(_RUN_EVENT_PREFIX + action, pattern) for action in actions for pattern in event_types
        )
    )
