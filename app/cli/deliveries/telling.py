"""How a delivery is told: in a line, and as JSON. Pure."""

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from app.cli.common.output import replace_control_chars
from app.store.delivery_filter import DeliverySummary
from app.truto.events import RECORD_EVENT


def describe_event(event: str, resource: str, method: str) -> str:
    """Return what a delivery is about: a batch's resource, or the event."""
    about = f"{resource} {method}".strip()
    if event == RECORD_EVENT and about:
        return replace_control_chars(about)
    return replace_control_chars(f"{event or '(no event)'} {about}".strip())


def describe_delivery(delivery: DeliverySummary) -> str:
    """Return what a delivery is about."""
    return describe_event(delivery.event, delivery.resource, delivery.method)


def shorten(text: str, max_chars: int) -> str:
    """Return a text without what would move the cursor, in at most so many characters."""
    text = replace_control_chars(text)
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def to_json(value: Any) -> str:
    """Return a value as JSON in one line; only ASCII, so that nothing in it moves a cursor."""
    return json.dumps(value, default=_encode_value)


def _encode_value(value: datetime | UUID) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
