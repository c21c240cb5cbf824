"""Accounts for a run with all that can be found out: its events, Truto's API, Truto's log."""

from collections.abc import Callable
from datetime import datetime

from app.database.engine import Database
from app.errors import TrutoRefused, TrutoUnavailable
from app.runs.reconciliation import Reconciliation, has_truto_counts, reconcile_counts
from app.runs.refresh import RunRefresher
from app.store.run_totals import read_run_totals
from app.store.runs import StoredRun

# Told why Truto does not say more.
TrutoError = TrutoRefused | TrutoUnavailable


def reconcile_run(
    store: Database,
    run: StoredRun,
    refresher: RunRefresher | None,
    *,
    now: datetime,
    on_error: Callable[[TrutoError], None],
) -> tuple[StoredRun, Reconciliation]:
    """Return a run and its account; Truto is asked only for what its events left out.

    What it does not tell stays unknown, and `tell` hears why. Raises StoreUnavailable.
    """
    try:
        if refresher and not (run.has_ended and has_truto_counts(run)):
            run = refresher.refresh(run.sync_job_run_id, now=now) or run
        reconciliation = reconcile_stored(store, run)
        if (
            refresher
            and run.has_ended
            and (reconciliation.verdict == "unknown" or _has_unexplained_gap(reconciliation))
        ):
            run = refresher.refresh_log(run, now=now)
    except (TrutoRefused, TrutoUnavailable) as error:
        on_error(error)
    # After the run: what comes meanwhile is then newer than the run says, and it is not settled.
    return run, reconcile_stored(store, run)


def reconcile_stored(store: Database, run: StoredRun) -> Reconciliation:
    """Return a run's account by what is known here."""
    return reconcile_counts(run, read_run_totals(store, [run.sync_job_run_id])[run.sync_job_run_id])


def _has_unexplained_gap(reconciliation: Reconciliation) -> bool:
    codes = {reason.code for line in reconciliation.resources for reason in line.gap_reasons}
    return bool(codes & {"unexplained", "stopped", "given_up", "quarantined"})
