"""Values of a record as typed columns; what does not fit becomes NULL, with its reason. Pure."""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any

from app.config.routes import Column
from app.sinks.sql.keys import to_json

_BIGINT = 2**63


class _Misfit(ValueError):
    """Says why a value does not fit; a short stable word."""


def cast_columns(record: Any, columns: Mapping[str, Column]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the columns' values by name, and the reasons of those that did not fit."""
    values: dict[str, Any] = {}
    misfits: dict[str, str] = {}
    for name, column in columns.items():
        values[name] = None
        found = _find(record, (column.path or name).split("."))
        if found is not None:
            try:
                values[name] = _CASTS[column.type](found)
            except _Misfit as misfit:
                misfits[name] = str(misfit)
    return values, misfits


def _find(value: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool):
        raise _Misfit("not_an_integer")
    try:
        number = int(value) if isinstance(value, str | int) else int(value) if value == int(value) else None
    except (ValueError, TypeError, OverflowError) as error:
        raise _Misfit("not_an_integer") from error
    if number is None:
        raise _Misfit("not_an_integer")
    if not -_BIGINT <= number < _BIGINT:
        raise _Misfit("out_of_range")
    return number


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _Misfit("not_a_number")
    try:
        number = float(value)
    except OverflowError as error:
        raise _Misfit("out_of_range") from error
    except ValueError as error:
        raise _Misfit("not_a_number") from error
    if not math.isfinite(number):
        raise _Misfit("out_of_range")
    return number


def _boolean(value: Any) -> bool:
    found = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise _Misfit("not_a_boolean")
    return found


def _timestamp(value: Any) -> str:
    try:
        time = datetime.fromisoformat(value.strip())
        aware = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, AttributeError, OverflowError) as error:
        raise _Misfit("not_a_timestamp") from error
    return aware.isoformat(timespec="microseconds")


def _date(value: Any) -> str:
    try:
        return date.fromisoformat(value.strip()[:10]).isoformat()
    except (ValueError, AttributeError) as error:
        raise _Misfit("not_a_date") from error


_CASTS: Mapping[str, Callable[[Any], Any]] = {
    "text": _text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "timestamp": _timestamp,
    "date": _date,
    "json": lambda value: value,
}
