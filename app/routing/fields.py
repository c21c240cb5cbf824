"""Fields of a record that a route keeps or removes; pure.

A path is member names joined by dots, as in `find_value`. "*" is every item of a list, or every member.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

# Paths, and rests of paths, of all routes.
_MAX_CACHED = 4096


def drop_fields(value: Any, paths: Sequence[str]) -> Any:
    """Return a value without the members at the paths; the value itself is unchanged."""
    for path in paths:
        value = _drop(value, path)
    return value


def keep_fields(value: Any, paths: Sequence[str]) -> Any:
    """Return a value with the members at the paths only, in their places."""
    return _keep(value, tuple(paths))


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
    changed = dict(value)
    changed.pop(path, None)
    for member, member_rest in _split_path(path):
        if member in changed:
            changed[member] = _drop(changed[member], member_rest)
    return changed


def _keep(value: Any, paths: tuple[str, ...]) -> Any:
    if not isinstance(value, dict | list) or "" in paths:
        return value
    rests, other_rest = _find_rests(paths)
    if isinstance(value, list):
        return [_keep(item, other_rest) for item in value] if other_rest else []
    return {
        name: _keep(member, rest) for name, member in value.items() if (rest := rests.get(name, other_rest))
    }


@lru_cache(_MAX_CACHED)
def _split_path(path: str) -> Sequence[tuple[str, str]]:
    """Return the members that a path may lead through, each with the rest of the path.

    A name itself may have dots: "a.b.c" leads through "a" or "a.b".
    """
    return [(path[:dot], path[dot + 1 :]) for dot, character in enumerate(path) if character == "."]


@lru_cache(_MAX_CACHED)
def _find_rests(paths: tuple[str, ...]) -> tuple[Mapping[str, tuple[str, ...]], tuple[str, ...]]:
    """Return the rests of the paths by the member that they lead through, and those of other members."""
    names = {name for path in paths for name, _ in [(path, ""), *_split_path(path)]}
    return {name: tuple(_list_rests(paths, name)) for name in names}, tuple(_list_rests(paths, "*"))


def _list_rests(paths: tuple[str, ...], name: str) -> Iterator[str]:
    for path in paths:
        if path in (name, "*"):
            yield ""
        elif path.startswith(f"{name}."):
            yield path[len(name) + 1 :]
        elif path.startswith("*."):
            yield path[2:]
