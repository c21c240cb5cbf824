"""Paths in a record: member names and list positions, joined by dots."""

from typing import Any


def find_value(record: Any, path: str) -> Any:
    """Return the value at a path; None if there is none."""
    value = record
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isascii() and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value
