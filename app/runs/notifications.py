"""What is told of a run. Pure."""

from datetime import datetime
from typing import Any

from app.runs.reconciliation import Account
from app.store.notifications import Notice
from app.store.runs import KnownRun

_NUMBERS = ("resource", "method", "fetched", "arrived", "written", "dead", "missing")


def notices_of_end(run: KnownRun, account: Account, *, now: datetime) -> list[Notice]:
    """Return the notices of a run that is over: that it is, that it is incomplete, that it was stopped."""
    told = {
        **_about(run),
        "verdict": account.verdict,
        "resources": [{name: getattr(line, name) for name in _NUMBERS} for line in account.lines],
        "record_errors": account.record_errors,
    }
    stop = [] if run.stop_cause or not run.stopped_at else [_stopped_elsewhere(run, now=now)]
    if account.verdict == "refused":
        return stop
    # What comes late may change the verdict: that is told again.
    missing = sum(line.missing for line in account.lines)
    cause = f"{run.status} {run.status_at} {account.verdict} {missing}"
    found = [Notice("run.settled", run.sync_job_run_id, cause, now, told)]
    if account.is_bad_news:
        found.append(Notice("run.incomplete", run.sync_job_run_id, cause, now, told))
    return found + stop


def _stopped_elsewhere(run: KnownRun, *, now: datetime) -> Notice:
    """Return the notice of a run that nobody here stopped by a limit."""
    by = "refusal" if run.refused else "truto"
    told = {**_about(run), "reason": run.refused or "Truto says so", "by": by, "is_asked": False}
    return Notice("run.stopped", run.sync_job_run_id, "stopped", now, told)


def stopped_by_limit(run: KnownRun, *, is_asked: bool, now: datetime) -> Notice:
    """Return the notice of a run that went beyond a limit. is_asked: whether Truto was asked to stop it."""
    told = {**_about(run), "reason": run.stop_cause, "by": "limit", "is_asked": is_asked}
    # One that could not be asked for at first is told again when it was.
    return Notice("run.stopped", run.sync_job_run_id, f"{run.stop_cause} {is_asked}", now, told)


def stalled(run: KnownRun, *, silent_s: float, now: datetime) -> Notice:
    """Return the notice of a run of which nothing comes any more."""
    last_seen_at = run.last_seen_at or run.first_seen_at
    told = {**_about(run), "last_seen_at": last_seen_at.isoformat(), "silent_s": round(silent_s)}
    return Notice("run.stalled", run.sync_job_run_id, last_seen_at.isoformat(), now, told)


def _about(run: KnownRun) -> dict[str, Any]:
    return {
        "sync_job_run_id": run.sync_job_run_id,
        "sync_job_id": run.sync_job_id,
        "integrated_account_id": run.integrated_account_id,
        "status": run.status,
    }
