"""Delete checks of runs, as a worker stores them."""

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from app.database.engine import Database
from app.store.delete_checks import DeleteCheck, DeleteCheckState, make_check_id, save_delete_checks
from app.store.models import RunUpdate
from app.store.runs import Runs
from tests.support.seeded_store import NOW


def build_check(
    run: str, reason: str = "", *, minute: int = 0, resource: str = "crm/contacts", at: datetime = NOW
) -> DeleteCheck:
    """Return a check that is due, or held back for a reason."""
    at += timedelta(minutes=minute)
    names = (run, "job", "account", resource, "list", "main", "")
    state = DeleteCheckState.HELD_BACK if reason else DeleteCheckState.DUE
    return DeleteCheck(make_check_id(run, resource, "", "main"), *names, at, at, state, reason, at)


def save_check(store: Database, check: DeleteCheck, *, live_rows: int = 100, unseen_rows: int = 40) -> UUID:
    """Store a check and its run; return its id. live_rows, unseen_rows: of one that is held back."""
    names = (check.sync_job_run_id, check.sync_job_id, check.integrated_account_id)
    Runs(store).upsert(RunUpdate(*names, "env", check.began_at))
    held = replace(check, live_rows=live_rows, unseen_rows=unseen_rows) if check.reason else check
    with store.transaction() as connection:
        save_delete_checks(connection, [held], now=check.created_at)
    return check.id
