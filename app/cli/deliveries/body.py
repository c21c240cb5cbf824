"""A delivery's body for the eyes of a person; pure."""

import json
import math
from typing import Any

from app.truto.events import decode_body


def format_body(body: bytes) -> str:
    """Return what an event brought, indented; a body that no parser takes, as it came.

    Nothing in it moves a cursor: what is not printable is written as an escape.
    """
    text = decode_body(body)
    try:
        value = json.loads(text, parse_float=_parse_finite_float, strict=False)
        payload = value.get("payload", value) if isinstance(value, dict) else value
        text = json.dumps(payload, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        pass
    return escape_control_chars(text)


def escape_control_chars(text: str) -> str:
    """Return a text with escapes for what is not printable; its lines stay."""
    return "".join(map(_escape_character, text))


def _escape_character(character: str) -> str:
    if character.isprintable() or character in "\n\t":
        return character
    # As JSON writes it.
    return json.dumps(character)[1:-1]


def _parse_finite_float(text: str) -> Any:
    number = float(text)
    if math.isinf(number):
        raise ValueError("no float holds this")
    return number
