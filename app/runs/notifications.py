"""Notifications about runs; pure."""

from datetime import datetime
from typing import Any

from app.runs.reconciliation import Reconciliation
from app.store.notifications import Notification
from app.store.runs import StoredRun

# The stop reason of a run that an operator stops. All others are limits.
OPERATOR_STOP_REASON = "requested by an operator"
_RESOURCE_FIELDS = ("resource", "method", "fetched", "arrived", "written", "dead", "missing")


def build_end_notifications(
    run: StoredRun, reconciliation: Reconciliation, *, now: datetime
) -> list[Notification]:
    """Return the notifications of a reconciled run: reconciled, and maybe incomplete or stopped."""
    payload = {
        **describe_run(run),
        "verdict": reconciliation.verdict,
        "resources": [
            {
                **{name: getattr(counts, name) for name in _RESOURCE_FIELDS},
                "sinks": [
                    {"sink": sink.sink, "written": sink.written, "dead": sink.dead} for sink in counts.sinks
                ],
            }
            for counts in reconciliation.resources
        ],
        "record_errors": reconciliation.record_errors,
    }
    stop = [] if run.stop_reason or not run.stopped_at else [_build_stopped_notification(run, now=now)]
    if reconciliation.verdict == "refused":
        return stop
    # A late delivery may change the verdict, which makes a new notification.
    missing = sum(counts.missing for counts in reconciliation.resources)
    cause = f"{run.status} {run.status_at} {reconciliation.verdict} {missing}"
    notifications = [Notification("run.reconciled", run.sync_job_run_id, cause, now, payload)]
    if reconciliation.has_gaps:
        notifications.append(Notification("run.incomplete", run.sync_job_run_id, cause, now, payload))
    return notifications + stop


def _build_stopped_notification(run: StoredRun, *, now: datetime) -> Notification:
    """Return the notification of a run that was stopped, but not by a limit."""
    by = "refusal" if run.refusal_reason else "truto"
    payload = {
        **describe_run(run),
        "reason": run.refusal_reason or "Truto says so",
        "by": by,
        "is_asked": False,
    }
    return Notification("run.stopped", run.sync_job_run_id, "stopped", now, payload)


def build_stop_notification(run: StoredRun, *, error: str, now: datetime) -> Notification:
    """Return the notification of a run that a limit or an operator stops. error: "" if Truto accepted it."""
    payload = {
        **describe_run(run),
        "reason": run.stop_reason,
        "by": "operator" if run.stop_reason == OPERATOR_STOP_REASON else "limit",
        "is_asked": not error,
    }
    if error:
        payload["error"] = error
    # A stop that fails at first and succeeds later makes two notifications.
    return Notification("run.stopped", run.sync_job_run_id, f"{run.stop_reason} {not error}", now, payload)


def build_stalled_notification(run: StoredRun, *, silent_s: float, now: datetime) -> Notification:
    """Return the notification of a run without recent deliveries."""
    last_seen_at = run.last_seen_at or run.first_seen_at
    payload = {**describe_run(run), "last_seen_at": last_seen_at.isoformat(), "silent_s": round(silent_s)}
    return Notification("run.stalled", run.sync_job_run_id, last_seen_at.isoformat(), now, payload)


def describe_run(run: StoredRun) -> dict[str, Any]:
    """Return the ids and the status of a run, for a notification."""
    return {
        "sync_job_run_id": run.sync_job_run_id,
        "sync_job_id": run.sync_job_id,
        "integrated_account_id": run.integrated_account_id,
        "status": run.status,
    }
