"""Messages of notifications for Slack."""

from collections.abc import Mapping
from typing import Any

from app.notify.texts import format_text

_MAX_TEXT_CHARS = 3000


def format_slack_text(kind: str, payload: Mapping[str, Any], *, link: str = "") -> str:
    """Return the text of a notification, escaped for Slack. link: shown after it, or ""."""
    text = format_text(kind, payload)
    text = text if len(text) <= _MAX_TEXT_CHARS else text[:_MAX_TEXT_CHARS] + "…"
    # Escape after cutting, so that no escape is cut in half. An escaped name mentions no user or channel.
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An address of the receiver's own has none of the characters that end a link.
    return f"{escaped} <{link.replace('&', '&amp;')}|Open the dashboard>" if link else escaped
