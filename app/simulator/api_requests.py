"""What the stand-in's API is asked and what it answers, before and after HTTP. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from app.truto.coerce import as_object

Answer = tuple[int, Mapping[str, Any]]

_LONGEST_PAGE = 100


@dataclass(frozen=True, slots=True)
class Request:
    """One request. kind: "sync-job-run", "log" or "webhook". id: "" for all of them. body: {} for none."""

    method: str
    kind: str
    id: str
    query: Mapping[str, str]
    body: Mapping[str, Any]


def read_request(method: str, target: str, body: bytes) -> Request:
    """Read a request. target: path and query, as in its first line."""
    url = urlsplit(target)
    kind, _, id_ = url.path.removeprefix("/").partition("/")
    query = {name: values[-1] for name, values in parse_qs(url.query).items()}
    try:
        told = as_object(json.loads(body))
    except ValueError:
        told = {}
    return Request(method, kind, unquote(id_), query, told)


def one_page(found: Sequence[Any], query: Mapping[str, str], *, named: str) -> Answer:
    """Answer with as many as are asked for, under this name, and with where to go on."""
    limit, start = (query.get(name, least) for name, least in (("limit", "100"), ("next_cursor", "0")))
    if not (limit.isdecimal() and start.isdecimal() and 0 < int(limit) <= _LONGEST_PAGE):
        return 422, {"message": f"limit must be 1 to {_LONGEST_PAGE}, next_cursor one that was answered"}
    end = int(start) + int(limit)
    cursor = str(end) if end < len(found) else None
    return 200, {named: found[int(start) : end], "next_cursor": cursor}
