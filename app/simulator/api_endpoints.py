"""What the stand-in's API is asked and what it answers, before and after HTTP. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from app.truto.coerce import as_object

ApiResponse = tuple[int, Mapping[str, Any]]

_MAX_PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request. kind: "sync-job-run", "log" or "webhook". id: "" for all of them. body: {} for none."""

    method: str
    kind: str
    id: str
    query: Mapping[str, str]
    body: Mapping[str, Any]


def read_request(method: str, target: str, body: bytes) -> ApiRequest:
    """Read a request. target: path and query, as in its first line."""
    url = urlsplit(target)
    kind, _, id_ = url.path.removeprefix("/").partition("/")
    query = {name: values[-1] for name, values in parse_qs(url.query).items()}
    try:
        body_object = as_object(json.loads(body))
    except ValueError:
        body_object = {}
    return ApiRequest(method, kind, unquote(id_), query, body_object)


def paginate_items(items: Sequence[Any], query: Mapping[str, str], *, list_name: str) -> ApiResponse:
    """Answer with as many as are asked for, under this name, and with where to go on."""
    limit, start = (query.get(name, default) for name, default in (("limit", "100"), ("next_cursor", "0")))
    if not (limit.isdecimal() and start.isdecimal() and 0 < int(limit) <= _MAX_PAGE_SIZE):
        return 422, {"message": f"limit must be 1 to {_MAX_PAGE_SIZE}, next_cursor one that was answered"}
    end = int(start) + int(limit)
    cursor = str(end) if end < len(items) else None
    return 200, {list_name: items[int(start) : end], "next_cursor": cursor}
