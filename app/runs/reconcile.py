"""Accounts for a run with all that can be found out: its events, Truto's API, Truto's log."""

from collections.abc import Callable
from datetime import datetime

from app.database.engine import Store
from app.errors import TrutoRefused, TrutoUnavailable
from app.runs.reconciliation import Account, account_for, tells_numbers
from app.runs.refresh import Inquiry
from app.store.run_totals import read_figures
from app.store.runs import KnownRun

# Told why Truto does not say more.
Silence = TrutoRefused | TrutoUnavailable


def reconcile(
    store: Store,
    run: KnownRun,
    inquiry: Inquiry | None,
    *,
    now: datetime,
    tell: Callable[[Silence], None],
) -> tuple[KnownRun, Account]:
    """Return a run and its account; Truto is asked only for what its events left out.

    What it does not tell stays unknown, and `tell` hears why. Raises StoreUnavailable.
    """
    try:
        if inquiry and not (run.has_ended and tells_numbers(run)):
            run = inquiry.ask(run.sync_job_run_id, now=now) or run
        account = account_of(store, run)
        if inquiry and run.has_ended and (account.verdict == "unknown" or _is_unexplained(account)):
            run = inquiry.read_log(run, now=now)
    except (TrutoRefused, TrutoUnavailable) as error:
        tell(error)
    # After the run: what comes meanwhile is then newer than the run says, and it is not settled.
    return run, account_of(store, run)


def account_of(store: Store, run: KnownRun) -> Account:
    """Return a run's account by what is known here."""
    return account_for(run, read_figures(store, [run.sync_job_run_id])[run.sync_job_run_id])


def _is_unexplained(account: Account) -> bool:
    words = {cause.word for line in account.lines for cause in line.causes}
    return bool(words & {"unexplained", "stopped", "given_up", "quarantined"})
