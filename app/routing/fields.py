"""Fields of a record that a route keeps or removes; pure.

A path is member names joined by dots, as in `find_value`. "*" is every item of a list, or every member.
"""

from collections.abc import Sequence
from typing import Any


def drop_fields(value: Any, paths: Sequence[str]) -> Any:
    """Return a value without the members at the paths; the value itself is unchanged."""
    for path in paths:
        value = _drop(value, path)
    return value


def keep_fields(value: Any, paths: Sequence[str]) -> Any:
    """Return a value with the members at the paths only, in their places."""
    if not isinstance(value, dict | list) or "" in paths:
        return value
    if isinstance(value, list):
        return [keep_fields(item, rest) for item in value] if (rest := _find_rest(paths, "*")) else []
    return {
        name: keep_fields(member, rest) for name, member in value.items() if (rest := _find_rest(paths, name))
    }


def _find_rest(paths: Sequence[str], name: str) -> list[str]:
    """Return the rest of each path that leads to a member."""
    rest = []
    for path in paths:
        if path in (name, "*"):
            rest.append("")
        elif path.startswith(f"{name}."):
            rest.append(path[len(name) + 1 :])
        elif path.startswith("*."):
            rest.append(path[2:])
    return rest


def _drop(value: Any, path: str) -> Any:
    name, _, rest = path.partition(".")
    if isinstance(value, list):
        if name != "*":
            return value
        return [_drop(item, rest) for item in value] if rest else []
    if not isinstance(value, dict):
        return value
    if name == "*":
        return {member: _drop(inner, rest) for member, inner in value.items()} if rest else {}
    # A name itself may have dots.
    return {
        member: _drop(inner, path[len(member) + 1 :]) if path.startswith(f"{member}.") else inner
        for member, inner in value.items()
        if member != path
    }
