"""Reconciliation of a run from its events, Truto's API and Truto's log."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from app.database.engine import Database
from app.errors import TrutoRefused, TrutoUnavailable
from app.runs.reconciliation import (
    Reconciliation,
    explain_by_batches_without_run,
    has_truto_counts,
    reconcile_counts,
)
from app.store.run_totals import count_records_without_run, find_senders_without_run, read_run_totals
from app.store.runs import StoredRun

if TYPE_CHECKING:
    # The web process reconciles from the store alone: it must not load the HTTP client.
    from app.runs.refresh import RunRefresher

# The batches of one run are found by an index; to find those of many, all batches without a run are read.
_MAX_RUNS_READ_SINGLY = 10
# A page may overtake the start of its run, and the end may overtake a page.
_MAX_OVERTAKING = timedelta(minutes=5)

TrutoError = TrutoRefused | TrutoUnavailable


def reconcile_run(
    database: Database,
    run: StoredRun,
    refresher: "RunRefresher | None",
    *,
    now: datetime,
    on_error: Callable[[TrutoError], None],
) -> tuple[StoredRun, Reconciliation]:
    """Return a run and its reconciliation; request from Truto only counts that the events left out.

    on_error: receives a failed request to Truto; the counts then stay unknown. Raises StoreUnavailable.
    """
    try:
        if refresher and not _has_final_counts(run):
            run = refresher.refresh(run.sync_job_run_id, now=now) or run
        reconciliation = reconcile_stored(database, run, now=now)
        if refresher and run.has_ended and _needs_log(reconciliation):
            run = refresher.refresh_log(run, now=now)
    except (TrutoRefused, TrutoUnavailable) as error:
        on_error(error)
    # Read after the run: a delivery in between makes `mark_reconciled` fail instead of being missed.
    return run, reconcile_stored(database, run, now=now)


def reconcile_stored(database: Database, run: StoredRun, *, now: datetime) -> Reconciliation:
    """Return a run's reconciliation from the store alone."""
    [(_, reconciliation)] = reconcile_stored_runs(database, [run], now=now)
    return reconciliation


def reconcile_stored_runs(
    database: Database, runs: Sequence[StoredRun], *, now: datetime
) -> list[tuple[StoredRun, Reconciliation]]:
    """Return runs with their reconciliations from the store alone; raises StoreUnavailable."""
    totals = read_run_totals(database, [run.sync_job_run_id for run in runs])
    reconciled = [(run, reconcile_counts(run, totals[run.sync_job_run_id], now=now)) for run in runs]
    unexplained = [run for run, reconciliation in reconciled if reconciliation.has_unexplained_gaps]
    explainable = _find_explainable_runs(database, unexplained, now)
    return [
        (
            run,
            _explain(database, run, reconciliation, now)
            if run.sync_job_run_id in explainable
            else reconciliation,
        )
        for run, reconciliation in reconciled
    ]


def _find_explainable_runs(database: Database, runs: Sequence[StoredRun], now: datetime) -> set[str]:
    """Return the ids of runs whose account or webhook may have batches without a run."""
    named = [run for run in runs if run.integrated_account_id or run.webhook_id]
    if len(named) <= _MAX_RUNS_READ_SINGLY:
        return {run.sync_job_run_id for run in named}
    windows = [_get_window(run, now) for run in named]
    senders = find_senders_without_run(
        database, since=min(since for since, _ in windows), until=max(until for _, until in windows)
    )
    accounts = {account for account, _ in senders if account}
    webhooks = {webhook_id for account, webhook_id in senders if webhook_id and not account}
    return {
        run.sync_job_run_id
        for run in named
        if run.integrated_account_id in accounts or run.webhook_id in webhooks
    }


def _explain(
    database: Database, run: StoredRun, reconciliation: Reconciliation, now: datetime
) -> Reconciliation:
    since, until = _get_window(run, now)
    records = count_records_without_run(
        database, run.integrated_account_id, run.webhook_id, since=since, until=until
    )
    return explain_by_batches_without_run(reconciliation, records)


def _get_window(run: StoredRun, now: datetime) -> tuple[datetime, datetime]:
    """Return the time in which batches of a run may have arrived."""
    return run.first_seen_at - _MAX_OVERTAKING, (run.last_seen_at or now) + _MAX_OVERTAKING


def needs_truto(run: StoredRun, reconciliation: Reconciliation) -> bool:
    """Whether Truto may know more about a run than the store."""
    return not _has_final_counts(run) or _needs_log(reconciliation)


def _has_final_counts(run: StoredRun) -> bool:
    return run.has_ended and has_truto_counts(run)


def _needs_log(reconciliation: Reconciliation) -> bool:
    """Whether Truto's log may have a missing count, or the reason of a gap."""
    codes = {reason.code for counts in reconciliation.resources for reason in counts.gap_reasons}
    return (
        reconciliation.verdict == "unknown"
        or any(counts.in_flight for counts in reconciliation.resources)
        or bool(codes & {"unexplained", "unattributed", "stopped", "given_up", "quarantined"})
    )
