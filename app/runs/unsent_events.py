"""Events that a run never sends; pure."""

import json
from collections.abc import Iterator, Sequence
from typing import Literal

from app.store.runs import StoredRun
from app.truto.coerce import as_object
from app.truto.runs import read_events_to_send, sends_event

UnsentEvent = Literal["start", "end", "records", "record_errors"]
# An open run may end by any of these. `updated` reports every change of the status as well.
_END_ACTIONS = ("completed", "failed", "stopped")


def find_unsent_events(run: StoredRun) -> tuple[UnsentEvent, ...]:
    """Return the events that a run never sends, by its own `events_to_send`; () if it sends all.

    A run without any lifecycle event counts as one that sends neither its start nor its end.
    """
    if not run.status and run.status_at is None:
        return ("start", "end")
    return tuple(_list_excluded_events(run))


def explain_unsent_events(run: StoredRun, unsent_events: Sequence[UnsentEvent]) -> str:
    """Return the events that a run does not send, with the reason; "" without any."""
    names = ", ".join(name.replace("_", " ") for name in unsent_events)
    reason = "left out by events_to_send" if run.status else "no lifecycle event arrived"
    return f"{names} ({reason})" if names else ""


def _list_excluded_events(run: StoredRun) -> Iterator[UnsentEvent]:
    events_to_send = read_events_to_send(as_object(json.loads(run.run)) if run.run else {})
    ends = (run.status,) if run.status in _END_ACTIONS else _END_ACTIONS
    actions: dict[UnsentEvent, tuple[str, ...]] = {
        "start": ("started",),
        "end": (*ends, "updated"),
        "records": ("record",),
        "record_errors": ("record_error",),
    }
    for name, any_of in actions.items():
        if not any(sends_event(events_to_send, action) for action in any_of):
            yield name
