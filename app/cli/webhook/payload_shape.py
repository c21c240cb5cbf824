"""What a delivery is made of, told without its values. Pure."""

import json
from collections.abc import Iterator
from typing import Any

from app.cli.common.output import printable
from app.truto.coerce import as_object

_MOST_NAMES = 12
# Records of one page are alike: the first ones name their fields.
_LOOKED_AT = 100


def shape_lines(body: bytes, *, with_values: bool) -> Iterator[str]:
    """Yield what a body holds: the names in its payload and in its records, or everything."""
    try:
        payload = as_object(json.loads(body)).get("payload")
    except (ValueError, RecursionError):
        yield "not JSON" if not with_values else ascii(body[:2000])
        return
    if with_values:
        # Escaped, so that nothing in it moves the cursor.
        yield from json.dumps(payload, indent=2).splitlines()
        return
    if not isinstance(payload, dict):
        yield f"payload: {_kind(payload)}"
        return
    yield f"payload: {_names(payload)}"
    records = payload.get("records", payload.get("record"))
    found = records if isinstance(records, list) else [] if records is None else [records]
    if found:
        yield f"{len(found):,} records: {_fields(found[:_LOOKED_AT])}"


def _fields(records: list[Any]) -> str:
    objects = [record for record in records if isinstance(record, dict)]
    if not objects:
        return _kind(records[0])
    return _names(dict.fromkeys(name for record in objects for name in record))


def _names(members: dict[str, Any]) -> str:
    names = [printable(name) for name in members]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (", ".join(names[:_MOST_NAMES]) or "nothing") + more


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return {dict: "an object", list: "a list", str: "a text", bool: "a boolean"}.get(type(value), "a number")
