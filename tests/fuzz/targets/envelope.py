"""Fuzz target: the envelope and the payload of a body."""

import json
from dataclasses import astuple

from app.errors import UnreadableDelivery
from app.truto.events import MAX_NAME_CHARS, Envelope, read_envelope, read_payload
from app.truto.runs import read_resource_stats, read_run, status_from_event
from tests.fuzz.targets.json_bodies import force_slow_reader

_REASONS = ("empty_body", "not_json", "not_object", "no_event", "name_too_long")


def check(content: bytes) -> None:
    """Check that a body has a storable envelope, or a known reason.

    content: a signed body. Both readers find the same envelope and payload in a valid event. A run in the
    payload can be serialized.
    """
    envelope = _read(content)
    payload = read_payload(content)
    run = read_run(payload)
    if run is not None:
        json.dumps(run.model_dump(mode="json"))
        status_from_event("updated", run)
        read_resource_stats(run.resource_stats)
    if isinstance(envelope, str):
        assert envelope in _REASONS, envelope
        return
    for value in astuple(envelope):
        if isinstance(value, str):
            assert "\0" not in value, "PostgreSQL stores no NUL"
            value.encode()
    assert max(len(envelope.event), len(envelope.resource), len(envelope.method)) <= MAX_NAME_CHARS
    same = force_slow_reader(content)
    if same is not None:
        assert _read(same) == envelope, "the readers disagree about the envelope"
        assert read_payload(same) == payload, "the readers disagree about the payload"


def _read(body: bytes) -> Envelope | str:
    try:
        return read_envelope(body)
    except UnreadableDelivery as error:
        return error.reason
