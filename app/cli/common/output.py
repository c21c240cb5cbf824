"""Texts, times, numbers and JSON as commands print them."""

import json
from datetime import datetime
from typing import Any
from uuid import UUID

import click

from app.truto.events import RECORD_EVENT


def format_time(time: datetime | None) -> str:
    """Return a time in UTC, to the second; "-" without a time."""
    return f"{time:%Y-%m-%d %H:%M:%S}" if time else "-"


def replace_control_chars(text: str) -> str:
    """Return a text with U+FFFD for every character that could move the cursor."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def escape_control_chars(text: str) -> str:
    """Return a text with escapes for unprintable characters; line breaks and tabs stay."""
    return "".join(map(_escape_character, text))


def shorten(text: str, max_chars: int) -> str:
    """Return a printable text of at most so many characters."""
    text = replace_control_chars(text)
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def describe_event(event: str, resource: str, method: str) -> str:
    """Return the subject of a delivery: a batch's resource and method, or the event."""
    subject = f"{resource} {method}".strip()
    if event == RECORD_EVENT and subject:
        return replace_control_chars(subject)
    return replace_control_chars(f"{event or '(no event)'} {subject}".strip())


def to_json(value: Any) -> str:
    """Return a value as one line of ASCII JSON: times in ISO 8601, ids as text."""
    return json.dumps(value, default=encode_value)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    click.echo(to_json(value))


def _escape_character(character: str) -> str:
    if character.isprintable() or character in "\n\t":
        return character
    return json.dumps(character)[1:-1]


def encode_value(value: datetime | UUID) -> str:
    """Return a time in ISO 8601, or an id, as JSON holds it."""
    return value.isoformat() if isinstance(value, datetime) else str(value)
