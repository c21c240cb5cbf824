"""Shape of a body: the places and types of its values, and no value."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from app.truto.events import decode_body
from app.truto.records import decode_json
from app.webhook_probe.known_names import is_known_name

OTHER = "*"
NOT_JSON, MULTIPART = "not JSON", "multipart form"
# A simulated event has a few dozen places. A larger one shows enough.
_MAX_DEPTH = 6
_MAX_PLACES = 200
_MAX_ITEMS = 50
_TYPE_NAMES = {type(None): "null", bool: "boolean", dict: "object", list: "list"}
_IN_RECORD = re.compile(r"payload\.records?(\[\])?\.")
_MULTIPART_START = re.compile(rb"\s*--[^\r\n]{1,70}\r?\nContent-", re.IGNORECASE)
_TIME_FORMATS = {
    "time with T and Z": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"),
    "time with T and offset": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d:?\d\d"),
    "time with a space": re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?"),
    "digits": re.compile(r"[0-9]+"),
    "blank": re.compile(r"\s*"),
}


@dataclass(slots=True)
class Place:
    """The values at one place of one or several bodies.

    types: of the values. other_names: the largest number of names in one object that are not shown; 0 for a
    place with a known name.
    """

    types: set[str] = field(default_factory=set)
    other_names: int = 0


Shape = Mapping[str, Place]


def parse_event(body: bytes) -> dict[str, Any] | str:
    """Return the event in a body, or the reason for which there is none: NOT_JSON or MULTIPART."""
    if _MULTIPART_START.match(body):
        return MULTIPART
    try:
        event = decode_json(decode_body(body))
    except (ValueError, RecursionError):
        return NOT_JSON
    return event if isinstance(event, dict) else NOT_JSON


def describe_events(events: Iterable[Mapping[str, Any]]) -> Shape:
    """Return the places of events with the same name, by their paths.

    A path is the names of the members, joined by dots, with [] for the items of a list and * for all names
    that are not shown. The members of a record are not followed.
    """
    places: dict[str, Place] = {}
    for event in events:
        for path, value, other_names in _walk(event, "", 0):
            if path not in places and len(places) >= _MAX_PLACES:
                continue
            place = places.setdefault(path, Place())
            place.types.add(describe_type(value))
            place.other_names = max(place.other_names, other_names)
    return places


def describe_type(value: Any) -> str:
    """Return the type of a value, and the form of a text."""
    if isinstance(value, list) and not value:
        return "empty list"
    if not isinstance(value, str):
        return _TYPE_NAMES.get(type(value), "number")
    form = next((form for form, pattern in _TIME_FORMATS.items() if pattern.fullmatch(value)), "")
    if not form and len(value) == len(str(UUID(int=0))):
        form = "UUID" if _is_uuid(value) else ""
    return f"text ({form})" if form else "text"


def _walk(value: Any, path: str, other_names: int) -> Iterator[tuple[str, Any, int]]:
    """Yield the path, the value and the number of other names of everything below a value."""
    if path.count(".") >= _MAX_DEPTH or _IN_RECORD.match(path):
        return
    if isinstance(value, list):
        for item in value[:_MAX_ITEMS]:
            yield f"{path}[]", item, other_names
            yield from _walk(item, f"{path}[]", 0)
    elif isinstance(value, dict):
        hidden = sum(not is_known_name(name) for name in value)
        for name, member in value.items():
            is_known = is_known_name(name)
            inner = f"{path}.{name if is_known else OTHER}".removeprefix(".")
            yield inner, member, 0 if is_known else hidden
            yield from _walk(member, inner, 0)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
