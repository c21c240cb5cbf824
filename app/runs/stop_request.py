"""Stops of runs that an operator requests, and the state of any stop.

The web process stores the request; the monitor of a worker sends it to Truto, as it does at limits.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from app.runs.notifications import OPERATOR_STOP_REASON
from app.store.notifications import Notification
from app.store.runs import Runs, StoredRun

_STOPPED_BY_US = ("limit", "operator")
# The name of the action in the audit log.
STOP_ACTION = "run.stop"
StopState = Literal["none", "requested", "failed", "sent", "stopped"]


@dataclass(frozen=True, slots=True)
class RunStop:
    """The stop of a run.

    state: requested (a worker sends it within seconds), failed (Truto did not accept it; workers try again),
    sent (Truto accepted it), stopped, or none. reason: the exceeded limit, or the operator. at: the time of
    the state; None if it is unknown. error: of the failed request.
    """

    state: StopState
    reason: str = ""
    at: datetime | None = None
    error: str = ""


def request_stop(runs: Runs, run_id: str) -> bool:
    """Store an operator's request to stop a run; return False if it has ended, or a stop is stored already.

    Raises StoreUnavailable.
    """
    return runs.request_stop(run_id, OPERATOR_STOP_REASON)


def find_stop(run: StoredRun, notifications: Iterable[Notification]) -> RunStop:
    """Return the state of a run's stop; pure. notifications: those about the run, oldest first."""
    if run.stopped_at and run.has_ended:
        return RunStop("stopped", run.stop_reason or run.refusal_reason, run.stopped_at)
    if not run.stop_reason or run.has_ended:
        return RunStop("none")
    if run.stop_sent_at:
        return RunStop("sent", run.stop_reason, run.stop_sent_at)
    for notification in notifications:
        payload = notification.payload
        is_ours = notification.kind == "run.stopped" and payload.get("by") in _STOPPED_BY_US
        if is_ours and payload.get("is_asked") is False:
            error = str(payload.get("error") or "Truto did not accept the request")
            return RunStop("failed", run.stop_reason, notification.occurred_at, error)
    return RunStop("requested", run.stop_reason)
