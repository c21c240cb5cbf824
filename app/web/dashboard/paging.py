"""Positions in long lists, as the `after` of a URL."""

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar
from urllib.parse import urlencode

from flask import request
from werkzeug.exceptions import BadRequest

from app.store.schema.column_types import replace_unstorable
from app.truto.coerce import as_time

PAGE_SIZE = 50
PARAMETER = "after"
Item = TypeVar("Item")


def read_cursor() -> list[str] | None:
    """Return the position in the URL of this request; None on the first page. Raises BadRequest."""
    text = request.args.get(PARAMETER, "")
    if not text:
        return None
    try:
        values = json.loads(base64.urlsafe_b64decode(text.encode()))
    except (ValueError, binascii.Error, RecursionError):
        values = None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise incomplete_link()
    # No database accepts NUL or a lone surrogate.
    if any(replace_unstorable(value) != value for value in values):
        raise incomplete_link()
    return values


def read_time_cursor() -> tuple[datetime, str] | None:
    """Return the time and the key in the URL of this request; None on the first page. Raises BadRequest."""
    cursor = read_cursor()
    if cursor is None:
        return None
    try:
        time, key = cursor
    except ValueError as error:
        raise incomplete_link() from error
    return parse_position_time(time), key


def parse_position_time(text: str) -> datetime:
    """Return the time of a position; raises BadRequest."""
    # In UTC: another offset could lead out of the range of times.
    if (time := as_time(text)) is None:
        raise incomplete_link()
    return time


def incomplete_link() -> BadRequest:
    """Return the error of a position that no page of the dashboard has written."""
    return BadRequest("The link to this page of the list is incomplete. Go back to its first page.")


def build_next_url(*position: object) -> str:
    """Return this request's URL with the position after which the next page begins."""
    values = [value.isoformat() if isinstance(value, datetime) else str(value) for value in position]
    cursor = base64.urlsafe_b64encode(json.dumps(values).encode()).decode()
    return build_url(**{PARAMETER: cursor})


def build_url(**changes: str | None) -> str:
    """Return this request's URL with other parameters. None removes one; a change leads to the first page."""
    parameters = {name: value for name, value in request.args.items() if value and name != PARAMETER}
    for name, value in changes.items():
        if value:
            parameters[name] = value
        else:
            parameters.pop(name, None)
    return request.path + (f"?{urlencode(parameters)}" if parameters else "")


def split_page(items: Sequence[Item], page_size: int = PAGE_SIZE) -> tuple[Sequence[Item], bool]:
    """Return one page of a list that was read with one item more, and whether another page follows."""
    return items[:page_size], len(items) > page_size
