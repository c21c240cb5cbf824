"""Field names of a payload and its records, without their values. Pure."""

from collections.abc import Iterator
from typing import Any

from app.cli.common.output import escape_control_chars, replace_control_chars
from app.plural import format_count
from app.truto.coerce import as_object
from app.truto.events import decode_body
from app.truto.records import decode_json, indent_json

_MAX_NAMES = 12
# Records of one page are alike: the first ones show the fields of all.
_SAMPLE_SIZE = 100
_TYPE_NAMES = {type(None): "null", dict: "an object", list: "a list", str: "a string", bool: "a boolean"}


def shape_lines(body: bytes, *, with_values: bool) -> Iterator[str]:
    """Yield the field names of a body's payload and records; with_values: the whole payload."""
    try:
        payload = as_object(decode_json(decode_body(body))).get("payload")
        text = indent_json(payload) if with_values else ""
    except (ValueError, RecursionError):
        yield "not JSON" if not with_values else ascii(body[:2000])
        return
    if with_values:
        yield from escape_control_chars(text).splitlines()
        return
    if not isinstance(payload, dict):
        yield f"payload: {_describe_type(payload)}"
        return
    yield f"payload: {_list_names(payload)}"
    records = payload.get("records", payload.get("record"))
    items = records if isinstance(records, list) else [] if records is None else [records]
    if items:
        yield f"{format_count(len(items), 'record')}: {_list_fields(items[:_SAMPLE_SIZE])}"


def _list_fields(records: list[Any]) -> str:
    objects = [record for record in records if isinstance(record, dict)]
    if not objects:
        return _describe_type(records[0])
    return _list_names(dict.fromkeys(name for record in objects for name in record))


def _list_names(members: dict[str, Any]) -> str:
    names = [replace_control_chars(name) for name in members]
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return (", ".join(names[:_MAX_NAMES]) or "no fields") + more


def _describe_type(value: Any) -> str:
    return _TYPE_NAMES.get(type(value), "a number")
