"""Scanner that locates JSON members and items without parsing them.

A parser rejects a whole body because of one number, surrogate or nesting depth that it does not support. The
scanner finds only the start and the end of each value, so that the rest of a batch can be saved. It keeps no
stack, so no nesting is too deep, and reads each character a bounded number of times.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

# Possessive quantifiers: a string of many megabytes must not store a backtracking point per character.
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SCALAR_VALUE = rf'(?:{_STRING}|[^"\[\]{{}}\s,:]++)'
# ASCII: a text may be bytes decoded as latin-1, in which 0x85 and 0xA0 are no whitespace.
_SCALAR = re.compile(_SCALAR_VALUE, re.DOTALL | re.ASCII)
# Inside an array or object only brackets count, and strings, which may contain brackets.
_CONTENT = rf'[^"\[\]{{}}]++|{_STRING}'
# An array or object of few levels is one match: a step of Python for each bracket takes ten times as long.
_FEW_LEVELS = rf"[\[{{](?:{_CONTENT})*+[\]}}]"
for _ in range(3):
    _FEW_LEVELS = rf"[\[{{](?:{_CONTENT}|{_FEW_LEVELS})*+[\]}}]"
_SHALLOW = re.compile(_FEW_LEVELS, re.DOTALL)
_UP_TO_BRACKET = re.compile(rf"(?:{_CONTENT}|{_FEW_LEVELS})*+[\[\]{{}}]", re.DOTALL)
_SPACE = r"[ \t\n\r]*+"
_WHITESPACE = re.compile(_SPACE)
_ITEMS_PER_MATCH = 1000
_MANY_ITEMS = re.compile(
    rf"(?:(?:{_FEW_LEVELS}|{_SCALAR_VALUE}){_SPACE},{_SPACE}){{{_ITEMS_PER_MATCH}}}+", re.DOTALL | re.ASCII
)
_OPENING = ("[", "{")
_CLOSING = ("]", "}")


class NotJson(ValueError):
    """The text has not even the outline of JSON."""


@dataclass(frozen=True, slots=True)
class JsonSpan:
    """The position of one value in a text."""

    text: str
    start: int
    end: int

    @property
    def raw(self) -> str:
        return self.text[self.start : self.end]

    @property
    def is_object(self) -> bool:
        return self.text.startswith("{", self.start)

    @property
    def is_array(self) -> bool:
        return self.text.startswith("[", self.start)


def scan_document(text: str) -> JsonSpan:
    """Return the span of a text's only value; raises NotJson if it has none, or more than one."""
    start = _skip_space(text, 0)
    end = _find_value_end(text, start)
    if _skip_space(text, end) != len(text):
        raise NotJson("the text continues after the value")
    return JsonSpan(text, start, end)


def scan_object(span: JsonSpan) -> dict[str, JsonSpan]:
    """Return the spans of an object's members; the last of equal names wins, as in `json`."""
    return dict(_scan_parts(span, has_names=True))


def scan_array(span: JsonSpan) -> list[JsonSpan]:
    """Return the spans of an array's items; another value, or a malformed array, is one item itself."""
    if not span.is_array:
        return [span]
    try:
        return [value for _, value in _scan_parts(span, has_names=False)]
    except NotJson:
        return [span]


def count_items(span: JsonSpan) -> int:
    """Return the number of an array's items; raises NotJson for another value, or a malformed array."""
    if not span.is_array:
        raise NotJson("the value is no array")
    text, place, count = span.text, _skip_space(span.text, span.start + 1), 0
    if text.startswith(_CLOSING, place):
        return 0
    while many := _MANY_ITEMS.match(text, place):
        place, count = many.end(), count + _ITEMS_PER_MATCH
    return count + sum(1 for _ in _scan_from(text, place, has_names=False))


def scan_items(span: JsonSpan, *, first: int = 0) -> Iterator[JsonSpan]:
    """Yield the spans of an array's items from the number `first` on; raises NotJson at a malformed one."""
    text, place = span.text, _skip_space(span.text, span.start + 1)
    if text.startswith(_CLOSING, place):
        return
    while first >= _ITEMS_PER_MATCH and (many := _MANY_ITEMS.match(text, place)):
        place, first = many.end(), first - _ITEMS_PER_MATCH
    for _, item in islice(_scan_from(text, place, has_names=False), first, None):
        yield item


def _scan_parts(span: JsonSpan, *, has_names: bool) -> Iterator[tuple[str, JsonSpan]]:
    text, place = span.text, _skip_space(span.text, span.start + 1)
    if not text.startswith(_CLOSING, place):
        yield from _scan_from(text, place, has_names=has_names)


def _scan_from(text: str, place: int, *, has_names: bool) -> Iterator[tuple[str, JsonSpan]]:
    """Yield the parts of an array or object from the start of one of them on."""
    while True:
        name = ""
        if has_names:
            end = _find_value_end(text, place)
            name = _decode_name(text[place:end])
            place = _skip_mark(text, end, ":")
        end = _find_value_end(text, place)
        yield name, JsonSpan(text, place, end)
        place = _skip_space(text, end)
        if text.startswith(_CLOSING, place):
            return
        place = _skip_mark(text, place, ",")


def _decode_name(raw: str) -> str:
    try:
        name = json.loads(raw, strict=False)
    except ValueError as error:
        raise NotJson("the name of a member is not JSON") from error
    if not isinstance(name, str):
        raise NotJson("the name of a member is not a string")
    return name


def _find_value_end(text: str, start: int) -> int:
    if not text.startswith(_OPENING, start):
        scalar = _SCALAR.match(text, start)
        if scalar is None:
            raise NotJson("a value is missing")
        return scalar.end()
    if shallow := _SHALLOW.match(text, start):
        return shallow.end()
    depth, place = 1, start + 1
    while True:
        bracket = _UP_TO_BRACKET.match(text, place)
        if bracket is None:
            raise NotJson("the text ends inside a value")
        place = bracket.end()
        depth += 1 if text.startswith(_OPENING, place - 1) else -1
        if depth == 0:
            return place


def _skip_space(text: str, place: int) -> int:
    space = _WHITESPACE.match(text, place)
    return space.end() if space else place


def _skip_mark(text: str, place: int, mark: str) -> int:
    place = _skip_space(text, place)
    if not text.startswith(mark, place):
        raise NotJson(f"expected {mark}")
    return _skip_space(text, place + 1)
