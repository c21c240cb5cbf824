"""Values in a record, found by paths of names and positions; pure."""

from typing import Any


def find_value(value: Any, path: str) -> Any:
    """Return the value at a path; None if there is none.

    A member whose name is the rest of the path, dots included, comes before a nested one.
    """
    while True:
        if isinstance(value, dict) and path in value:
            return value[path]
        name, dot, path = path.partition(".")
        if isinstance(value, dict):
            value = value.get(name) if dot else None
        elif isinstance(value, list) and name.isascii() and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
        if not dot:
            return value
