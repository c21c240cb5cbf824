"""Versions of records that name their time themselves; pure."""

from datetime import UTC, datetime, timedelta
from typing import Any

from app.truto.iso_time import read_time, to_utc
from app.truto.record_path import find_value

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Whole numbers from here on are milliseconds, others seconds: of 1973 and of 5138.
_MIN_MILLISECONDS = 10**11


def read_version(record: Any, path: str) -> datetime | None:
    """Return the time at a path of a record, in UTC; None if there is none.

    The time is text in ISO 8601, or whole seconds or milliseconds since 1970.
    """
    value = find_value(record, path)
    try:
        if isinstance(value, int) and not isinstance(value, bool):
            unit = "milliseconds" if abs(value) >= _MIN_MILLISECONDS else "seconds"
            return _EPOCH + timedelta(**{unit: value})
        return to_utc(read_time(value))
    except (ValueError, OverflowError):
        return None
