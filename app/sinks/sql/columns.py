"""Casting of record values to typed columns; pure."""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any

from app.config.routes import ColumnConfig
from app.sinks.sql.keys import to_json
from app.truto.record_path import find_value

_BIGINT = 2**63


class _CastError(ValueError):
    """A value that does not fit its column; the message is a short stable code."""


def cast_columns(record: Any, columns: Mapping[str, ColumnConfig]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values and the misfits of a record by column name.

    A value that does not fit becomes None, and its reason is a misfit.
    """
    values: dict[str, Any] = {}
    misfits: dict[str, str] = {}
    for name, column in columns.items():
        values[name] = None
        value = find_value(record, column.path or name)
        if value is not None:
            try:
                values[name] = _CASTS[column.type](value)
            except _CastError as misfit:
                misfits[name] = str(misfit)
    return values, misfits


def _cast_text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value)


def _cast_integer(value: Any) -> int:
    if isinstance(value, bool):
        raise _CastError("not_an_integer")
    try:
        number = int(value) if isinstance(value, str | int) else int(value) if value == int(value) else None
    except (ValueError, TypeError, OverflowError) as error:
        raise _CastError("not_an_integer") from error
    if number is None:
        raise _CastError("not_an_integer")
    if not -_BIGINT <= number < _BIGINT:
        raise _CastError("out_of_range")
    return number


def _cast_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _CastError("not_a_number")
    try:
        number = float(value)
    except OverflowError as error:
        raise _CastError("out_of_range") from error
    except ValueError as error:
        raise _CastError("not_a_number") from error
    if not math.isfinite(number):
        raise _CastError("out_of_range")
    return number


def _cast_boolean(value: Any) -> bool:
    boolean = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(boolean, bool):
        raise _CastError("not_a_boolean")
    return boolean


def _cast_timestamp(value: Any) -> str:
    try:
        time = datetime.fromisoformat(value.strip())
        aware = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, AttributeError, OverflowError) as error:
        raise _CastError("not_a_timestamp") from error
    return aware.isoformat(timespec="microseconds")


def _cast_date(value: Any) -> str:
    try:
        return date.fromisoformat(value.strip()[:10]).isoformat()
    except (ValueError, AttributeError) as error:
        raise _CastError("not_a_date") from error


_CASTS: Mapping[str, Callable[[Any], Any]] = {
    "text": _cast_text,
    "integer": _cast_integer,
    "number": _cast_number,
    "boolean": _cast_boolean,
    "timestamp": _cast_timestamp,
    "date": _cast_date,
    "json": lambda value: value,
}
