"""Lines of the tables and keys of a TOML text; pure.

The parser of the standard library reports no lines. It is used here on one statement at a time, so that its
rules for strings, arrays and comments apply.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

TomlPath = tuple[str | int, ...]


def find_lines(text: str) -> Mapping[TomlPath, int]:
    """Return the line, from 1, on which each table and key of a valid text begins.

    A path has names, and the positions of tables in arrays: ("routes", 0, "sinks").
    """
    found: dict[TomlPath, int] = {}
    sizes: dict[TomlPath, int] = {}
    table: TomlPath = ()
    for line, statement, parsed in _split_statements(text):
        if statement.lstrip().startswith("["):
            table = _enter_table(parsed, sizes)
            found.setdefault(table, line)
        else:
            for path in _list_paths(parsed):
                found.setdefault((*table, *path), line)
    return found


def find_line(lines: Mapping[TomlPath, int], path: Sequence[str | int]) -> int | None:
    """Return the line of a path, or of the innermost table around it; None if there is none."""
    return next((line for end in range(len(path), 0, -1) if (line := lines.get(tuple(path[:end])))), None)


def _split_statements(text: str) -> Iterator[tuple[int, str, Any]]:
    """Yield (line, statement, its parsed value) of each header and assignment."""
    # As the parser does.
    lines = text.replace("\r\n", "\n").split("\n")
    start = 0
    while start < len(lines):
        for end in range(start + 1, len(lines) + 1):
            statement = "\n".join(lines[start:end])
            try:
                parsed = tomllib.loads(statement)
            except tomllib.TOMLDecodeError:
                # A value of several lines is valid when its end is reached.
                continue
            if parsed:
                yield start + 1, statement, parsed
            start = end
            break
        else:
            return


def _enter_table(parsed: Any, sizes: dict[TomlPath, int]) -> TomlPath:
    """Return the path of a header. sizes: of the arrays of tables so far, by path."""
    path: TomlPath = ()
    while parsed:
        [(name, parsed)] = parsed.items()
        path = (*path, name)
        if isinstance(parsed, list):
            sizes[path] = sizes.get(path, 0) + 1
            parsed = parsed[0]
        if path in sizes:
            path = (*path, sizes[path] - 1)
    return path


def _list_paths(value: Any) -> Iterator[TomlPath]:
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, member in members:
        yield (name,)
        yield from ((name, *rest) for rest in _list_paths(member))
