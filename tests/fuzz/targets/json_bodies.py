"""Bodies that two readers must read alike."""

import json


def is_json(body: bytes) -> bool:
    """Whether Python's parser reads a body as JSON in UTF-8."""
    try:
        json.loads(body.decode())
    except (ValueError, RecursionError):
        return False
    return True


def force_slow_reader(body: bytes) -> bytes | None:
    """Return a JSON object with one more member, which no fast decoder accepts; None if it is no object.

    The member is first, so that it replaces no other.
    """
    text = body.lstrip(b" \t\n\r")
    if not text.startswith(b"{") or not is_json(text):
        return None
    rest = text[1:].lstrip(b" \t\n\r")
    return b'{"not a number":NaN' + (b"" if rest.startswith(b"}") else b",") + rest
