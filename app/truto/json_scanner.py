"""Scanner that locates JSON members and items without parsing them.

A parser rejects a whole body because of one number, surrogate or nesting depth that it does not support. The
scanner finds only the start and the end of each value, so that the rest of a batch can be saved. It keeps no
stack, so no nesting is too deep, and its time and memory do not depend on the shape of the JSON.
"""

import json
import re
from collections.abc import Callable, Iterator
from itertools import accumulate, islice
from typing import NamedTuple

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Possessive quantifiers: a string of many megabytes must not store a backtracking point per character.
_STRING_CHARS = rb'(?:[^"\\]++|\\.)*+'
_STRING = rb'"' + _STRING_CHARS + rb'"'
_IN_STRING = re.compile(_STRING_CHARS, re.DOTALL)
_STRINGS = re.compile(_STRING, re.DOTALL)
_SCALAR = re.compile(rb'[^"\[\]{}\s,:]++')
# Inside an array or object only brackets count, and strings, which may contain brackets.
_CONTENT = rb'[^"\[\]{}]++|' + _STRING
_UP_TO_BRACKET = re.compile(rb"(?:" + _CONTENT + rb")*+[\[\]{}]", re.DOTALL)
# A value of few levels is one match.
_FEW_LEVELS = rb"[\[{](?:" + _CONTENT + rb")*+[\]}]"
for _ in range(3):
    _FEW_LEVELS = rb"[\[{](?:" + _CONTENT + rb"|" + _FEW_LEVELS + rb")*+[\]}]"
_SHALLOW = re.compile(_FEW_LEVELS, re.DOTALL)
# Not possessive as a whole: before 3.11.5, Python then includes the start of a string that does not end here.
_WHOLE_TOKENS = re.compile(rb'[^"]*+(?:' + _STRING + rb'[^"]*+)*', re.DOTALL)
_SPACE = rb"[ \t\n\r]*+"
_WHITESPACE = re.compile(_SPACE)
_COMMA = re.compile(_SPACE + rb"," + _SPACE)
_COLON = re.compile(_SPACE + rb":" + _SPACE)
_ITEMS_PER_MATCH = 1000
_MANY_ITEMS = re.compile(
    rb"(?:(?:%b|%b|%b)%b,%b){%d}+"
    % (_FEW_LEVELS, _STRING, _SCALAR.pattern, _SPACE, _SPACE, _ITEMS_PER_MATCH),
    re.DOTALL,
)
_OPENING = (b"[", b"{")
_CLOSING = (b"]", b"}")
# Each bracket as the change of the depth: a signed byte.
_DEPTH_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

_MIN_STEP_BYTES = 64
_MAX_STEP_BYTES = 16 * 1024
_TOKEN_STEP_BYTES = 1024 * 1024
# No name of a member that matters is longer.
_MAX_NAME_BYTES = 4096

# Called between steps of a few milliseconds.
Pause = Callable[[], None]


class NotJson(ValueError):
    """The text has not even the outline of JSON."""


def no_pause() -> None:
    """Return at once, for a process that serves nobody else."""


class JsonSpan(NamedTuple):
    """The position of one value in a body."""

    body: bytes
    start: int
    end: int

    @property
    def raw(self) -> str:
        """The value's JSON, with U+FFFD for invalid UTF-8."""
        return self.raw_bytes.decode(errors="replace")

    @property
    def raw_bytes(self) -> bytes:
        return self.body[self.start : self.end]

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.end - self.start

    @property
    def is_null(self) -> bool:
        return self.size == len(b"null") and self.body.startswith(b"null", self.start)

    @property
    def is_object(self) -> bool:
        return self.body.startswith(b"{", self.start)

    @property
    def is_array(self) -> bool:
        return self.body.startswith(b"[", self.start)


def is_blank(body: bytes) -> bool:
    """Whether a body has nothing but whitespace."""
    return _skip_space(body, _first_place(body)) == len(body)


def scan_document(body: bytes, pause: Pause = no_pause) -> JsonSpan:
    """Return the span of a body's only value; raises NotJson if it has none, or more than one."""
    start = _skip_space(body, _first_place(body))
    end = _find_value_end(body, start, pause)
    if _skip_space(body, end) != len(body):
        raise NotJson("the text continues after the value")
    return JsonSpan(body, start, end)


def scan_object(
    span: JsonSpan,
    names: frozenset[str] | None = None,
    pause: Pause = no_pause,
    *,
    max_members: int | None = None,
) -> dict[str, JsonSpan]:
    """Return the spans of an object's members; the last of equal names wins, as in `json`.

    names: of the members to return; None for all. max_members: the scan stops after so many.
    """
    parts = _scan_parts(span, has_names=True, pause=pause)
    return dict(islice((part for part in parts if names is None or part[0] in names), max_members))


def scan_array(span: JsonSpan, pause: Pause = no_pause) -> list[JsonSpan]:
    """Return the spans of an array's items; another value, or a malformed array, is one item itself."""
    if not span.is_array:
        return [span]
    try:
        return [value for _, value in _scan_parts(span, has_names=False, pause=pause)]
    except NotJson:
        return [span]


def count_items(span: JsonSpan) -> int:
    """Return the number of an array's items; raises NotJson for another value, or a malformed array."""
    if not span.is_array:
        raise NotJson("the value is no array")
    # An array has fewer items than bytes.
    return _skip_items(span, span.size)[0]


def scan_items(span: JsonSpan, *, first: int = 0) -> Iterator[JsonSpan]:
    """Yield the spans of an array's items from the number `first` on; raises NotJson at a malformed one."""
    _, place = _skip_items(span, first)
    if place is not None:
        for _, item in _scan_from(span.body, place, has_names=False, pause=no_pause):
            yield item


def _skip_items(span: JsonSpan, number: int) -> tuple[int, int | None]:
    """Skip items of an array; return the number of skipped ones, and the place of the next one, if any."""
    body, place, count = span.body, _skip_space(span.body, span.start + 1), 0
    if body.startswith(_CLOSING, place):
        return 0, None
    while count < number:
        step = min(number - count, _ITEMS_PER_MATCH)
        if step == _ITEMS_PER_MATCH and (many := _MANY_ITEMS.match(body, place)):
            place, count = many.end(), count + step
            continue
        # Not fewer than a match has: one deep item must not cause a match for each item before it.
        for _ in range(step):
            next_place = _find_next_part(body, _find_value_end(body, place, no_pause))
            count += 1
            if next_place is None:
                return count, None
            place = next_place
    return count, place


def _scan_parts(span: JsonSpan, *, has_names: bool, pause: Pause) -> Iterator[tuple[str, JsonSpan]]:
    place = _skip_space(span.body, span.start + 1)
    if not span.body.startswith(_CLOSING, place):
        yield from _scan_from(span.body, place, has_names=has_names, pause=pause)


def _scan_from(body: bytes, place: int, *, has_names: bool, pause: Pause) -> Iterator[tuple[str, JsonSpan]]:
    """Yield the parts of an array or object from the start of one of them on."""
    name = ""
    while True:
        if has_names:
            name, place = _read_name(body, place, pause)
        end = _find_value_end(body, place, pause)
        yield name, JsonSpan(body, place, end)
        pause()
        next_place = _find_next_part(body, end)
        if next_place is None:
            return
        place = next_place


def _find_next_part(body: bytes, end: int) -> int | None:
    """Return the place of the part after one that ends at `end`; None if it is the last one."""
    if comma := _COMMA.match(body, end):
        return comma.end()
    if body.startswith(_CLOSING, _skip_space(body, end)):
        return None
    raise NotJson("expected ,")


def _read_name(body: bytes, place: int, pause: Pause) -> tuple[str, int]:
    """Return the name of the member at a place, and the place of its value; "" for an overlong name."""
    if not body.startswith(b'"', place):
        raise NotJson("the name of a member is not a string")
    end = _find_string_end(body, place, pause)
    colon = _COLON.match(body, end)
    if colon is None:
        raise NotJson("expected :")
    if end - place > _MAX_NAME_BYTES:
        return "", colon.end()
    raw = body[place:end].decode(errors="replace")
    if "\\" not in raw:
        return raw[1:-1], colon.end()
    try:
        return str(json.loads(raw, strict=False)), colon.end()
    except ValueError as error:
        raise NotJson("the name of a member is not JSON") from error


def _find_value_end(body: bytes, start: int, pause: Pause) -> int:
    if body.startswith(b'"', start):
        return _find_string_end(body, start, pause)
    if not body.startswith(_OPENING, start):
        return _find_scalar_end(body, start, pause)
    # Without pauses, nobody waits for the end of a long match.
    max_end = len(body) if pause is no_pause else start + _MAX_STEP_BYTES
    if shallow := _SHALLOW.match(body, start, max_end):
        return shallow.end()
    return _find_closing_bracket(body, start, pause)


def _find_scalar_end(body: bytes, start: int, pause: Pause) -> int:
    place = start
    while scalar := _SCALAR.match(body, place, place + _TOKEN_STEP_BYTES):
        place = scalar.end()
        if place - scalar.start() < _TOKEN_STEP_BYTES:
            return place
        pause()
    if place == start:
        raise NotJson("a value is missing")
    return place


def _find_closing_bracket(body: bytes, start: int, pause: Pause) -> int:
    place, depth, step_bytes = start + 1, 1, _MIN_STEP_BYTES
    while place < len(body):
        tokens = _WHOLE_TOKENS.match(body, place, place + step_bytes)
        end = tokens.end() if tokens else place
        if end == place:
            # A string that is longer than the step.
            place = _find_string_end(body, place, pause)
            continue
        # No loop in Python over the brackets: a body may have 32 million.
        brackets = _STRINGS.sub(b"", body[place:end]).translate(_DEPTH_STEPS, _NO_BRACKETS)
        depths = list(accumulate(memoryview(brackets).cast("b"), initial=depth))
        if min(depths) <= 0:
            return _skip_brackets(body, place, depths.index(0))
        place, depth = end, depths[-1]
        step_bytes = min(2 * step_bytes, _MAX_STEP_BYTES)
        pause()
    raise NotJson("the text ends inside a value")


def _skip_brackets(body: bytes, place: int, count: int) -> int:
    for _ in range(count):
        bracket = _UP_TO_BRACKET.match(body, place)
        if bracket is None:
            raise NotJson("the text ends inside a value")
        place = bracket.end()
    return place


def _find_string_end(body: bytes, start: int, pause: Pause) -> int:
    place = start + 1
    while chars := _IN_STRING.match(body, place, place + _TOKEN_STEP_BYTES):
        if body.startswith(b'"', chars.end()):
            return chars.end() + 1
        if chars.end() == place:
            break
        place = chars.end()
        pause()
    raise NotJson("the text ends inside a string")


def _first_place(body: bytes) -> int:
    return len(_BYTE_ORDER_MARK) if body.startswith(_BYTE_ORDER_MARK) else 0


def _skip_space(body: bytes, place: int) -> int:
    space = _WHITESPACE.match(body, place)
    return space.end() if space else place
