"""Reconciliation of a run from its events, Truto's API and Truto's log."""

from collections.abc import Callable
from datetime import datetime

from app.database.engine import Database
from app.errors import TrutoRefused, TrutoUnavailable
from app.runs.reconciliation import Reconciliation, has_truto_counts, reconcile_counts
from app.runs.refresh import RunRefresher
from app.store.run_totals import read_run_totals
from app.store.runs import StoredRun

TrutoError = TrutoRefused | TrutoUnavailable


def reconcile_run(
    database: Database,
    run: StoredRun,
    refresher: RunRefresher | None,
    *,
    now: datetime,
    on_error: Callable[[TrutoError], None],
) -> tuple[StoredRun, Reconciliation]:
    """Return a run and its reconciliation; request from Truto only counts that the events left out.

    on_error: receives a failed request to Truto; the counts then stay unknown. Raises StoreUnavailable.
    """
    try:
        if refresher and not (run.has_ended and has_truto_counts(run)):
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
    totals = read_run_totals(database, [run.sync_job_run_id])[run.sync_job_run_id]
    return reconcile_counts(run, totals, now=now)


def _needs_log(reconciliation: Reconciliation) -> bool:
    """Whether Truto's log may have a missing count, or the reason of a gap."""
    codes = {reason.code for counts in reconciliation.resources for reason in counts.gap_reasons}
    return (
        reconciliation.verdict == "unknown"
        or any(counts.in_flight for counts in reconciliation.resources)
        or bool(codes & {"unexplained", "stopped", "given_up", "quarantined"})
    )
