"""The reason of a sync's state, in words; pure."""

from datetime import datetime

from app.plural import format_count
from app.runs.gap_reasons import explain_gaps
from app.runs.usual_interval import find_next_start
from app.store.accounts import Sync, SyncState
from app.store.run_summaries import RunSummary
from app.times import format_duration

_UNKNOWN_REASONS = {
    "unknown": "the last run's events have no count, and Truto's API has sent none: run rapidbridge doctor",
    "not_sent": "the last run sends no event at its end: see its events_to_send",
    "refused": "all recent runs were refused at their start",
    "": "no run has been summarized yet",
}


def explain_state(sync: Sync, *, now: datetime) -> str:
    """Return the reason of a sync's state; "" if nothing needs a reason."""
    return "; ".join(filter(None, _list_reasons(sync, now)))


def explain_run(status: str, summary: RunSummary) -> str:
    """Return an early end of a run, and its largest gap; "" without both."""
    return "; ".join(filter(None, (explain_early_end("the run", status, summary), explain_gaps(summary))))


def explain_early_end(subject: str, status: str, summary: RunSummary) -> str:
    """Return the early end of a run in words; "" if the run is open or completed. subject: "the run"."""
    if status == "stopped":
        return f"{subject} was stopped before its end"
    if status != "failed":
        return ""
    errors = f", with {format_count(summary.record_errors, 'record error')}" if summary.record_errors else ""
    return f"{subject} failed at Truto{errors}"


def _list_reasons(sync: Sync, now: datetime) -> tuple[str, ...]:
    early_end = explain_early_end("the last run", sync.status, sync.summary)
    if sync.state == SyncState.INCOMPLETE:
        return explain_gaps(sync.summary), early_end
    if sync.state == SyncState.LATE:
        return _explain_delay(sync, now), early_end
    if sync.state == SyncState.UNKNOWN:
        return (explain_gaps(sync.summary) or _UNKNOWN_REASONS.get(sync.summary.verdict, ""),)
    return early_end, _describe_progress(sync), _describe_history(sync)


def _explain_delay(sync: Sync, now: datetime) -> str:
    last_run_at = sync.last_run_at or now
    if sync.usual_interval_s is not None and find_next_start(last_run_at, sync.usual_interval_s) < now:
        silence, interval = now - last_run_at, format_duration(sync.usual_interval_s)
        return f"no new run for {format_duration(silence.total_seconds())}, usually every {interval}"
    silence = now - max(filter(None, (sync.newest_record_at, last_run_at)))
    return f"the open run has had no records for {format_duration(silence.total_seconds())}"


def _describe_progress(sync: Sync) -> str:
    if sync.summary.verdict not in ("open", "settling"):
        return ""
    if sync.summary.verdict == "settling" and sync.summary.pending_deliveries:
        pending = f"{format_count(sync.summary.pending_deliveries, 'delivery')} pending"
        return "; ".join(filter(None, (pending, explain_gaps(sync.summary))))
    if sync.status == "rate_limited":
        return "waits for a rate limit"
    return "in progress" if sync.summary.verdict == "open" else "records may still arrive"


def _describe_history(sync: Sync) -> str:
    if not sync.incomplete_runs:
        return ""
    return f"{sync.incomplete_runs} of the last {format_count(sync.recent_runs, 'run')} incomplete"
