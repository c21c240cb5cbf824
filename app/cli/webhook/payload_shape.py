"""What a delivery is made of, told without its values. Pure."""

import json
from collections.abc import Iterator
from typing import Any

from app.cli.common.output import replace_control_chars
from app.truto.coerce import as_object

_MAX_NAMES = 12
# Records of one page are alike: the first ones name their fields.
_SAMPLE_SIZE = 100


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
        yield f"payload: {_describe_type(payload)}"
        return
    yield f"payload: {_list_names(payload)}"
    records = payload.get("records", payload.get("record"))
    items = records if isinstance(records, list) else [] if records is None else [records]
    if items:
        yield f"{len(items):,} records: {_list_fields(items[:_SAMPLE_SIZE])}"


def _list_fields(records: list[Any]) -> str:
    objects = [record for record in records if isinstance(record, dict)]
    if not objects:
        return _describe_type(records[0])
    return _list_names(dict.fromkeys(name for record in objects for name in record))


def _list_names(members: dict[str, Any]) -> str:
    names = [replace_control_chars(name) for name in members]
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return (", ".join(names[:_MAX_NAMES]) or "nothing") + more


def _describe_type(value: Any) -> str:
    if value is None:
        return "nothing"
    return {dict: "an object", list: "a list", str: "a text", bool: "a boolean"}.get(type(value), "a number")
