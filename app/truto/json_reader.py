"""Reader of untrusted JSON values that leaves out the unreadable parts."""

import json
import re
from collections.abc import Mapping
from typing import Any

from app.truto.coerce import as_text
from app.truto.json_scanner import JsonSpan, NotJson, Pause, no_pause, scan_array, scan_document, scan_object

# Run details and error reports are much smaller. As Python objects, JSON takes up to a hundred times as much.
MAX_READ_BYTES = 1024 * 1024
# Enough of a longer text to show that it is too long for a name.
_MAX_CUT_BYTES = 4096
# A value that cannot be parsed is read part by part, down to this depth.
_MAX_PART_DEPTH = 8
# Values read so, together. They are few in a sound body: only those around an unreadable or very long value.
_MAX_PARTS = 10_000
# Surrogate pairs and all other escapes match as well, so that no part of one is mistaken for another escape.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<unstorable>u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2}))|.)",
    re.DOTALL,
)


class JsonReader:
    """Reads values of one body, and parses at most `max_bytes` of it: this bounds the time and the memory.

    A value that cannot be parsed becomes None, but the readable members and items around it are kept. Beyond
    max_bytes, short texts and numbers are still read, a long text is cut, an array is None, and an object has
    only such members. Of the parts of values that cannot be parsed, only the first 10,000 are read.
    """

    def __init__(self, max_bytes: int = MAX_READ_BYTES, pause: Pause = no_pause) -> None:
        self._left_bytes = max_bytes
        self._left_parts = _MAX_PARTS
        self._pause = pause

    def read_value(self, span: JsonSpan | None) -> Any:
        """Return the value of a span; None without a span."""
        return None if span is None else self._read(span, None, _MAX_PART_DEPTH)

    def read_members(
        self, members: Mapping[str, JsonSpan], names: frozenset[str] | None = None
    ) -> dict[str, Any]:
        """Return the values of members.

        names: if an object cannot be parsed whole, the names of its members that are read; None for all.
        """
        return self._read_smallest_first(members, names, _MAX_PART_DEPTH)

    def _read(self, span: JsonSpan, names: frozenset[str] | None, depth: int) -> Any:
        self._pause()
        is_scalar = not span.is_object and not span.is_array
        is_small = span.size <= self._left_bytes or (is_scalar and span.size <= _MAX_CUT_BYTES)
        if is_small:
            try:
                value = json.loads(replace_unstorable(span.raw)[0], strict=False)
            except (ValueError, RecursionError):
                pass
            else:
                self._left_bytes -= span.size
                return value
        elif span.body.startswith(b'"', span.start):
            return span.body[span.start + 1 : span.start + _MAX_CUT_BYTES].decode(errors="replace")
        has_parts = depth > 0 and self._left_parts > 0
        if has_parts and span.is_object:
            try:
                members = scan_object(span, names, self._pause, max_members=self._left_parts)
            except NotJson:
                return None
            self._left_parts -= len(members)
            # As in a value that is parsed whole, no name has a NUL or a lone surrogate.
            storable = {as_text(name): member for name, member in members.items()}
            return self._read_smallest_first(storable, names, depth - 1)
        if has_parts and span.is_array and is_small:
            items = scan_array(span, self._pause)
            self._left_parts -= len(items)
            return None if items == [span] else [self._read(item, names, depth - 1) for item in items]
        return None

    def _read_smallest_first(
        self, members: Mapping[str, JsonSpan], names: frozenset[str] | None, depth: int
    ) -> dict[str, Any]:
        # One long member must not use up the bytes of all others.
        values: dict[str, Any] = dict.fromkeys(members)
        for name, span in sorted(members.items(), key=lambda member: member[1].size):
            values[name] = self._read(span, names, depth)
        return values


def read_object(body: bytes) -> dict[str, Any] | None:
    """Return a body that is a JSON object, without the parts that cannot be read; None if it is none."""
    try:
        value = JsonReader(len(body)).read_value(scan_document(body))
    except NotJson:
        return None
    return value if isinstance(value, dict) else None


def replace_unstorable(raw: str) -> tuple[str, int]:
    """Replace NULs and lone surrogates in a JSON text, keys included; return the text and their number.

    The text is changed, not the value, because a value may be nested deeper than a recursion can go.
    """
    replaced = raw.count("\0")

    def replace(escape: re.Match[str]) -> str:
        nonlocal replaced
        if escape["unstorable"] is None:
            return escape[0]
        replaced += 1
        return "\ufffd"

    cleaned = _ESCAPE.sub(replace, raw.replace("\0", "\ufffd"))
    return cleaned, replaced
