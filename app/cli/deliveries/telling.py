"""How a delivery is told: in a line, and as JSON. Pure."""

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from app.cli.common.output import printable
from app.store.delivery_filter import Found
from app.truto.events import BATCH


def what_of(event: str, resource: str, method: str) -> str:
    """Return what a delivery is about: a batch's resource, or the event."""
    about = f"{resource} {method}".strip()
    if event == BATCH and about:
        return printable(about)
    return printable(f"{event or '(no event)'} {about}".strip())


def what(found: Found) -> str:
    """Return what a delivery is about."""
    return what_of(found.event, found.resource, found.method)


def shorten(text: str, most: int) -> str:
    """Return a text without what would move the cursor, in at most so many characters."""
    text = printable(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def to_json(value: Any) -> str:
    """Return a value as JSON in one line; only ASCII, so that nothing in it moves a cursor."""
    return json.dumps(value, default=_text)


def _text(value: datetime | UUID) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
