"""Fuzz target: the JSON scanner, compared with Python's parser."""

import json
from typing import Any

from app.truto.json_reader import read_object
from app.truto.json_scanner import (
    JsonSpan,
    NotJson,
    count_items,
    scan_array,
    scan_document,
    scan_items,
    scan_object,
)

_UNKNOWN = object()
_MAX_COMPARED_DEPTH = 100


def check(content: bytes) -> None:
    """Check that the spans of valid JSON rebuild its value.

    content: a body. Other bytes give NotJson, or spans inside the body. Pauses change no span, and the items
    from the middle on are the same.
    """
    value = _parse(content)
    try:
        document = scan_document(content)
    except NotJson:
        assert value is _UNKNOWN, "the scanner rejects valid JSON"
        return
    assert scan_document(content, _pause) == document, "pauses change the span"
    if value is not _UNKNOWN and _is_shallow(value, _MAX_COMPARED_DEPTH):
        assert _rebuild(document) == value, "the spans are not those of the value"
    _check_parts(document, value)
    read_object(content)


def _check_parts(span: JsonSpan, value: Any) -> None:
    """Check one level of a span, with and without pauses."""
    if span.is_object:
        try:
            members = scan_object(span)
        except NotJson:
            assert value is _UNKNOWN, "the scanner rejects a valid object"
            return
        assert scan_object(span, pause=_pause) == members, "pauses change the members"
        assert all(span.start < member.start <= member.end <= span.end for member in members.values())
    elif span.is_array:
        items = scan_array(span)
        try:
            count = count_items(span)
        except NotJson:
            assert items == [span], "a malformed array is one item"
            return
        assert len(items) == count, "the number of items differs"
        middle = count // 2
        assert list(scan_items(span, first=middle)) == items[middle:], "the items from the middle on differ"


def _rebuild(span: JsonSpan) -> Any:
    if span.is_object:
        return {name: _rebuild(member) for name, member in scan_object(span).items()}
    if span.is_array:
        return [_rebuild(item) for item in scan_array(span)]
    return json.loads(span.raw)


def _parse(content: bytes) -> Any:
    """Return the value of valid JSON; _UNKNOWN for everything else, and for limits of Python's parser."""
    try:
        return json.loads(content.decode("utf-8-sig"), parse_constant=_reject)
    except (ValueError, RecursionError):
        return _UNKNOWN


def _is_shallow(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    parts = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(part, levels - 1) for part in parts)


def _reject(constant: str) -> None:
    raise ValueError(constant)


def _pause() -> None:
    """Do nothing; another function than `no_pause`, which the scanner knows."""
