"""Search for the ids of an event in every possible place of its payload.

Source: docs/protocol.md, "A batch may name no account". The exact places are unconfirmed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.truto.coerce import as_object, as_text

# The end of the name of an argument that holds one of a run's accounts, such as crm_integrated_account_id.
ACCOUNT_ARG = "_integrated_account_id"
_WORD = re.compile(r"\w+")
# A deeper `meta` is not searched for the name of an account.
_MAX_META_DEPTH = 4


def find_id(payload: Mapping[str, Any], name: str, nested: str = "") -> str:
    """Return an id from the payload, its `meta` or its `sync_job_run`, in this order; else "".

    name: the member that holds the id. nested: a member that is either the id or an object with an `id`.
    """
    # Nearly always there: this runs for every POST, and the other places cost more than the rest of it.
    return read_id(payload.get(name)) or _find_first(_list_places(payload), name, nested)


def find_account(payload: Mapping[str, Any], resource: str) -> str:
    """Return the integrated account of an event or a run, or "".

    resource: of the batch, "" if it names none.
    """
    if account := read_id(payload.get("integrated_account_id")):
        return account
    places = _list_places(payload)
    if account := _find_first(places, "integrated_account_id", "integrated_account"):
        return account
    every_args = (as_object(place.get("args")) for place in places)
    accounts = (_find_account_in_args(args, as_object(payload.get("meta")), resource) for args in every_args)
    return next(filter(None, accounts), "")


def _list_places(payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    meta = as_object(payload.get("meta"))
    runs = (as_object(payload.get("sync_job_run")), as_object(meta.get("sync_job_run")))
    return [payload, meta, *(run for run in runs if run)]


def _find_first(places: Iterable[Mapping[str, Any]], name: str, nested: str) -> str:
    for place in places:
        inner = place.get(nested) if nested else None
        if text := read_id(place.get(name)) or read_id(as_object(inner).get("id")) or read_id(inner):
            return text
    return ""


def read_id(value: Any) -> str:
    """Return a string or a number as an id; "" for a blank text and for other types."""
    text = as_text(value)
    return text if text.strip() else ""


def _find_account_in_args(args: Mapping[str, Any], meta: Mapping[str, Any], resource: str) -> str:
    """Return the account of a run's arguments.

    Of several, only the one that `meta` or the resource names is certain: its argument's name begins with
    the unified API, the resource, or a name in `meta`.
    """
    by_purpose = {
        name.removesuffix(ACCOUNT_ARG): account
        for name, value in args.items()
        if name.endswith(ACCOUNT_ARG) and (account := read_id(value))
    }
    general = read_id(args.get("integrated_account_id"))
    if len({general, *by_purpose.values()} - {""}) == 1:
        return general or next(iter(by_purpose.values()))
    texts = list(_list_texts(meta, _MAX_META_DEPTH))
    words = {word for text in texts for word in _WORD.findall(text)}
    parts = {_normalize(part) for part in (resource, *resource.split("/"))}
    named_by_meta = {
        account
        for purpose, account in by_purpose.items()
        if account in texts or not words.isdisjoint({purpose, purpose + ACCOUNT_ARG})
    }
    named_by_resource = {account for purpose, account in by_purpose.items() if _normalize(purpose) in parts}
    certain = (next(iter(named)) for named in (named_by_meta, named_by_resource) if len(named) == 1)
    return next(certain, general)


def _list_texts(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth and isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _list_texts(inner, depth - 1)


def _normalize(name: str) -> str:
    return re.sub(r"\W", "_", name).casefold()
