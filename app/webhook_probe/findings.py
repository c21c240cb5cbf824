"""Answers to the questions that Truto's documentation leaves open, from received events. Pure.

An answer consists of fixed words and the names of the protocol only, never of a value.
Source of the questions: docs/protocol.md, the facts marked as unconfirmed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from app.redis.observed_tests import ObservedTest
from app.truto.coerce import as_object, as_text
from app.truto.events import EVENT_NAME_MEMBERS, RECORD_ERROR_EVENT, RECORD_EVENT
from app.truto.id_places import ACCOUNT_ARG, find_id, read_id
from app.truto.signature import ENCODINGS
from app.webhook_probe.body_shape import describe_type

NOT_SEEN = "not seen"
NONE = "none"
_CONTENT_TYPES = ("application/json", "multipart/form-data")
_IN_BOTH_ALPHABETS = ("base64", "base64-unpadded")
Events = Mapping[str, Sequence[Mapping[str, Any]]]
_RUN_EVENT_PREFIX = "sync_job_run:"


def answer_requests(requests: Sequence[ObservedTest]) -> dict[str, str]:
    """Return the answers about headers and retries. requests: of one webhook, oldest first."""
    encodings: set[str] = {request.encoding for request in requests} & set(ENCODINGS)
    return {
        "mac encoding": _join(_drop_ambiguous(encodings)),
        "signature header": _join("format=sha256,v=" if request.has_format else "v=" for request in requests),
        "content type": _join(
            request.content_type if request.content_type in _CONTENT_TYPES else "other"
            for request in requests
        ),
        **_answer_retry(requests),
    }


def answer_events(events: Events) -> dict[str, str]:
    """Return the answers about bodies. events: decoded, by name."""
    every = [event for group in events.values() for event in group]
    pages, errors = (list(map(_payload, events.get(name, ()))) for name in (RECORD_EVENT, RECORD_ERROR_EVENT))
    lifecycle = [
        _payload(event)
        for name, group in events.items()
        if name.startswith(_RUN_EVENT_PREFIX) and name not in (RECORD_EVENT, RECORD_ERROR_EVENT)
        for event in group
    ]
    return {
        "name of the event": _answer(every, _list_name_members),
        "id of the event": _answer(filter(_list_other_ids, every), _compare_event_id),
        "created_at": _answer(every, lambda event: [describe_type(event.get("created_at"))]),
        "webhook_id": _answer(every, lambda event: ["yes" if read_id(event.get("webhook_id")) else "no"]),
        "tenant_id": _answer(every, lambda event: ["yes" if "tenant_id" in event else "no"]),
        "run of a page": _answer(pages, _list_run_places),
        "account of a page": _answer(pages, _list_account_places),
        "method of a page": _answer(pages, _list_method_places),
        "records of a page": _answer(pages, _describe_records),
        "run of a record error": _answer(errors, _list_run_places),
        "account of a record error": _answer(errors, _list_account_places),
        "record errors of an event": _answer(
            errors, lambda payload: ["errors: a list" if isinstance(payload.get("errors"), list) else "one"]
        ),
        "account of a run": _answer(lifecycle, _list_account_places),
    }


def _answer(
    objects: Iterable[Mapping[str, Any]], describe: Callable[[Mapping[str, Any]], Iterable[str]]
) -> str:
    """Return the descriptions of all objects, each once, or NOT_SEEN without an object."""
    return _join(text for inner in objects for text in list(describe(inner)) or [NONE])


def _join(texts: Iterable[str]) -> str:
    return ", ".join(sorted(set(texts))) or NOT_SEEN


def _drop_ambiguous(encodings: set[str]) -> Iterator[str]:
    """Yield the encodings without those of base64 that others imply.

    A MAC without "+", "/", "-" and "_" is the same in both alphabets.
    """
    for encoding in encodings:
        twin = encoding.replace("base64", "base64url")
        if encoding not in _IN_BOTH_ALPHABETS or twin not in encodings:
            yield encoding


def _answer_retry(requests: Sequence[ObservedTest]) -> dict[str, str]:
    rejected = next((place for place, request in enumerate(requests) if request.is_rejected), None)
    if not rejected:
        return dict.fromkeys(("second test event", "retry", "wait before the retry"), NOT_SEEN)
    second = {"second test event": _compare_requests(requests[0], requests[rejected])}
    if rejected + 1 == len(requests):
        return {**second, "retry": NONE, "wait before the retry": NONE}
    first, retry = requests[rejected : rejected + 2]
    wait_s = max(0.0, retry.at_s - first.at_s)
    return {**second, "retry": _compare_requests(first, retry), "wait before the retry": f"{wait_s:.1f} s"}


def _compare_requests(first: ObservedTest, second: ObservedTest) -> str:
    if first.body_digest == second.body_digest:
        return "the same id and body"
    return "the same id, another body" if first.event_digest == second.event_digest else "another id"


def _payload(event: Mapping[str, Any]) -> dict[str, Any]:
    return as_object(event.get("payload"))


def _list_name_members(event: Mapping[str, Any]) -> Iterator[str]:
    return (name for name in EVENT_NAME_MEMBERS if as_text(event.get(name)))


def _compare_event_id(event: Mapping[str, Any]) -> Iterator[str]:
    event_id = read_id(event.get("id"))
    others = _list_other_ids(event)
    if event_id:
        yield f"that of the {others[event_id]}" if event_id in others else "its own"


def _list_other_ids(event: Mapping[str, Any]) -> dict[str, str]:
    """Return the things that a payload is about, by their ids."""
    payload = _payload(event)
    names = [as_text(event.get(member)) for member in EVENT_NAME_MEMBERS]
    is_about_run = any(name.startswith(_RUN_EVENT_PREFIX) for name in names)
    things = {
        find_id(payload, "sync_job_id", "sync_job"): "sync job",
        find_id(payload, "sync_job_run_id", "sync_job_run"): "run",
        read_id(payload.get("id")): "run" if is_about_run else "payload",
    }
    return {id_: thing for id_, thing in things.items() if id_}


def _list_run_places(payload: Mapping[str, Any]) -> Iterator[str]:
    return _list_id_places(payload, "sync_job_run_id", "sync_job_run")


def _list_account_places(payload: Mapping[str, Any]) -> Iterator[str]:
    yield from _list_id_places(payload, "integrated_account_id", "integrated_account")
    for place, members in _list_places(payload):
        for name, value in as_object(members.get("args")).items():
            if name == "integrated_account_id" and read_id(value):
                yield f"{place}.args.{name}"
            elif name.endswith(ACCOUNT_ARG) and read_id(value):
                yield f"{place}.args.*{ACCOUNT_ARG}"


def _list_id_places(payload: Mapping[str, Any], name: str, nested: str) -> Iterator[str]:
    for place, members in _list_places(payload):
        inner = members.get(nested)
        values = {
            name: members.get(name),
            f"{nested}.id": as_object(inner).get("id"),
            nested: None if isinstance(inner, dict) else inner,
        }
        yield from (f"{place}.{path}" for path, value in values.items() if read_id(value))


def _list_method_places(payload: Mapping[str, Any]) -> Iterator[str]:
    return (f"{place}.method" for place, members in _list_places(payload) if read_id(members.get("method")))


def _list_places(payload: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the objects of a payload in which the receiver looks for ids, with their paths."""
    meta = as_object(payload.get("meta"))
    yield "payload", payload
    yield "payload.meta", meta
    yield "payload.sync_job_run", as_object(payload.get("sync_job_run"))
    yield "payload.meta.sync_job_run", as_object(meta.get("sync_job_run"))


def _describe_records(payload: Mapping[str, Any]) -> Iterator[str]:
    for name in ("records", "record"):
        if name in payload:
            yield f"{name}: {describe_type(payload[name]).partition(' (')[0]}"
