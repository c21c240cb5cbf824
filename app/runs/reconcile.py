"""Accounts for a run with all that can be found out: its events, Truto's API, Truto's log."""

from datetime import datetime

from app.errors import TrutoRefused
from app.runs.completeness import Account, account_for, told_stats
from app.runs.inquiry import Inquiry
from app.store.engine import Store
from app.store.figures import read_figures
from app.store.runs import KnownRun


def reconcile(
    store: Store, run: KnownRun, inquiry: Inquiry | None, *, now: datetime
) -> tuple[KnownRun, Account]:
    """Return a run and its account; Truto is asked only for what its events left out.

    Raises StoreUnavailable and TrutoUnavailable. What Truto refuses to tell stays unknown.
    """
    if inquiry and not (run.has_ended and told_stats(run)):
        run = _asked(inquiry, run, now)
    account = _account(store, run)
    if inquiry and run.has_ended and (account.verdict == "unknown" or _is_unexplained(account)):
        try:
            run = inquiry.read_log(run, now=now)
        except TrutoRefused:
            return run, account
        account = _account(store, run)
    return run, account


def _asked(inquiry: Inquiry, run: KnownRun, now: datetime) -> KnownRun:
    try:
        return inquiry.ask(run.sync_job_run_id, now=now) or run
    except TrutoRefused:
        return run


def _account(store: Store, run: KnownRun) -> Account:
    return account_for(run, read_figures(store, [run.sync_job_run_id])[run.sync_job_run_id])


def _is_unexplained(account: Account) -> bool:
    words = {cause.word for line in account.lines for cause in line.causes}
    return bool(words & {"unexplained", "stopped", "given_up", "quarantined"})
