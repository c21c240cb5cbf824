"""Entries of Truto's log of a run, one for each attempted delivery."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from app.truto.coerce import as_count, as_text

# Truto accepts a range of at most one month, and months differ in length.
_MAX_RANGE = timedelta(days=30)
_TIME_RESOLUTION = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of a run's log. A field that Truto leaves out is "", 0 or None.

    num_records: fetched records, delivered only if is_delivered. http_status: of the receiver's last answer.
    Source: docs/protocol.md, "The API".
    """

    resource: str
    method: str
    num_records: int
    is_delivered: bool | None
    http_status: int | None
    retry_count: int
    status: str


def read_log_entry(value: Any) -> LogEntry | None:
    """Read a log entry from decoded JSON; None if it is not an object."""
    if not isinstance(value, dict):
        return None
    is_delivered = value.get("webhook_successful")
    return LogEntry(
        resource=as_text(value.get("resource")),
        method=as_text(value.get("method")),
        num_records=as_count(value.get("num_records")) or 0,
        is_delivered=is_delivered if isinstance(is_delivered, bool) else None,
        http_status=as_count(value.get("webhook_status")) or None,
        retry_count=as_count(value.get("retry_count")) or 0,
        status=as_text(value.get("status")),
    )


def split_time_range(since: datetime, until: datetime) -> Iterator[tuple[str, str]]:
    """Split a time range into the bounds (after, before) of `created_at` that single requests accept.

    since, until: aware.
    """
    while since < until:
        end = min(since + _MAX_RANGE, until)
        yield _format_time(since), _format_time(end)
        # Both bounds are exclusive: overlap by 1 ms, so that the next range has the entries of this end.
        since = end if end == until else end - _TIME_RESOLUTION


def _format_time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
