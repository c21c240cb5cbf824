"""The reason of a sync's state, in words; pure."""

from datetime import datetime

from app.plural import format_count
from app.runs.gap_reasons import explain_gaps
from app.runs.usual_interval import find_next_start
from app.store.accounts import Sync, SyncState
from app.times import format_duration

_UNKNOWN_REASONS = {
    "unknown": "the events of the last run have no count: set TRUTO_API_TOKEN",
    "not_sent": "the last run sends no event at its end: see its events_to_send",
    "refused": "all recent runs were refused at their start",
    "": "no run has been summarized yet",
}


def explain_state(sync: Sync, *, now: datetime) -> str:
    """Return the reason of a sync's state; "" if nothing needs a reason."""
    if sync.state == SyncState.INCOMPLETE:
        return explain_gaps(sync.summary)
    if sync.state == SyncState.LATE:
        return _explain_delay(sync, now)
    if sync.state == SyncState.UNKNOWN:
        return explain_gaps(sync.summary) or _UNKNOWN_REASONS.get(sync.summary.verdict, "")
    return "; ".join(filter(None, (_describe_progress(sync), _describe_history(sync))))


def _explain_delay(sync: Sync, now: datetime) -> str:
    last_run_at = sync.last_run_at or now
    if sync.usual_interval_s and find_next_start(last_run_at, sync.usual_interval_s) < now:
        silence, interval = now - last_run_at, format_duration(sync.usual_interval_s)
        return f"no new run for {format_duration(silence.total_seconds())}, usually every {interval}"
    silence = now - max(filter(None, (sync.newest_record_at, last_run_at)))
    return f"the open run has had no records for {format_duration(silence.total_seconds())}"


def _describe_progress(sync: Sync) -> str:
    if sync.state != SyncState.OPEN:
        return ""
    if sync.summary.verdict == "settling" and sync.summary.pending_deliveries:
        return f"{format_count(sync.summary.pending_deliveries, 'delivery')} pending"
    if sync.status == "rate_limited":
        return "waits for a rate limit"
    return "in progress" if sync.summary.verdict == "open" else "records may still arrive"


def _describe_history(sync: Sync) -> str:
    if not sync.incomplete_runs:
        return ""
    return f"{sync.incomplete_runs} of the last {format_count(sync.recent_runs, 'run')} incomplete"
