"""Reconciliation of many runs: the same results as one by one, in a few queries."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import event, update

from app.database.engine import Database
from app.runs.batch_reconcile import BatchReconciler
from app.runs.reconcile import reconcile_stored
from app.store.inbox import Inbox
from app.store.models import IncomingDelivery, RunUpdate
from app.store.run_updates import upsert_runs
from app.store.runs import Runs
from app.store.schema import deliveries
from app.truto.events import read_envelope

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
RUNS = 1200
STATS = {"crm/contacts": {"list": {"fetched": 2, "persisted": 2}}}


def make_batch(run: str, account: str, webhook: str = "") -> IncomingDelivery:
    payload = {"sync_job_run_id": run, "integrated_account_id": account, "resource": "crm/contacts"}
    payload |= {"method": "list"}
    event_ = {"id": run, "event": "sync_job_run:record", "webhook_id": webhook, "payload": payload}
    body = json.dumps(event_).encode()
    at = NOW - timedelta(hours=1)
    return IncomingDelivery(body, hashlib.sha256(body).digest(), at, read_envelope(body))


def seed(database: Database) -> None:
    """Add runs of ten accounts and webhooks; some lack a record.

    One account has a batch without a run, and one webhook a batch without a run and an account.
    """
    run_json = json.dumps({"id": "x", "resource_stats": STATS})
    updates = [
        RunUpdate(
            f"r{number}",
            "j",
            f"a{number % 10}",
            "",
            NOW - timedelta(hours=1),
            webhook_id=f"w{number % 10}",
            status="completed",
            status_at=NOW - timedelta(minutes=30),
            status_rank=2,
            run=run_json,
        )
        for number in range(RUNS)
    ]
    with database.transaction() as connection:
        upsert_runs(connection, updates)
    batches = [make_batch(f"r{number}", f"a{number % 10}") for number in range(RUNS)]
    for start in range(0, RUNS, 100):
        Inbox(database).put(batches[start : start + 100])
    Inbox(database).put([make_batch("", "a1"), make_batch("", "", "w3")])
    with database.transaction() as connection:
        settled = update(deliveries).values(state="settled", settled_at=NOW, records=2)
        connection.execute(settled)
        for digit in "135":
            connection.execute(
                settled.values(records=1).where(deliveries.c.sync_job_run_id.like(f"%{digit}"))
            )
        quarantined = settled.values(state="quarantined", reason="no_account")
        connection.execute(quarantined.where(deliveries.c.integrated_account_id == ""))


def test_many_runs_are_reconciled_in_a_few_queries_as_one_by_one(store: Database) -> None:
    seed(store)
    runs = Runs(store).find_runs({}, since=None, limit=RUNS)
    one_by_one = [(run, reconcile_stored(store, run, now=NOW)) for run in runs]
    statements: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.extend([statement] if statement.startswith("SELECT") else [])

    event.listen(store.engine, "before_cursor_execute", count)
    together = list(BatchReconciler(store, None).reconcile(runs, now=NOW))
    event.remove(store.engine, "before_cursor_execute", count)

    assert together == one_by_one
    assert len(together) == RUNS
    codes = {
        (run.integrated_account_id, gap.code)
        for run, reconciliation in together
        for counts in reconciliation.resources
        for gap in counts.gap_reasons
    }
    assert codes == {("a1", "without_run"), ("a3", "unattributed"), ("a5", "unexplained")}
    # The windows of runs whose account or webhook has a batch without a run are their own: a query for each.
    incomplete = sum(run.integrated_account_id in ("a1", "a3") for run, _ in together)
    assert len(statements) <= incomplete + 20
