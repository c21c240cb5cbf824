"""Arguments that several tools have: limits, cursors and times."""

import json
from datetime import datetime
from typing import Annotated

from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field, TypeAdapter, ValidationError

from app.clock import utc_now
from app.times import parse_time

Limit = Annotated[int, Field(ge=1, le=200, description="Number of results at most.")]
Cursor = Annotated[str, Field(description="`next_cursor` of the page before; empty for the first page.")]
Time = Annotated[str, Field(description="An age (90m, 12h, 7d), a day, or a moment in UTC.")]
Pattern = Annotated[str, Field(description="Exact text, or a pattern in which `*` matches any text.")]
INVALID_CURSOR = ToolError("The cursor is invalid: pass `next_cursor` of the page before, unchanged.")
_PARTS = TypeAdapter(list[str])


def read_time(text: str) -> datetime | None:
    """Return the time of an argument; None if it is empty. Raises ToolError."""
    try:
        return parse_time(text, now=utc_now()) if text else None
    except ValueError as error:
        raise ToolError(str(error)) from error


def write_cursor(*position: object) -> str:
    """Return a position in a list as the text that `read_cursor` reads."""
    return json.dumps(
        [value.isoformat() if isinstance(value, datetime) else str(value) for value in position]
    )


def read_cursor(cursor: str, length: int) -> list[str] | None:
    """Return the parts of a cursor; None on the first page. Raises ToolError."""
    if not cursor:
        return None
    try:
        parts = _PARTS.validate_json(cursor)
    except ValidationError as error:
        raise INVALID_CURSOR from error
    if len(parts) != length:
        raise INVALID_CURSOR
    return parts


def read_time_cursor(cursor: str) -> tuple[datetime, str] | None:
    """Return a cursor of a time and a key; None on the first page. Raises ToolError."""
    parts = read_cursor(cursor, 2)
    if parts is None:
        return None
    try:
        return datetime.fromisoformat(parts[0]), parts[1]
    except ValueError as error:
        raise INVALID_CURSOR from error
