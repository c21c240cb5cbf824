"""A store whose deliveries a real worker wrote to real sinks."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text, update

from app.config.routes import Routes
from app.config.routes_file import read_routes
from app.database.engine import Database, open_database
from app.runs.reconciliation import Reconciliation, reconcile_counts
from app.sinks.registry import SinkRegistry
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import IncomingDelivery
from app.store.run_totals import RunTotals, read_run_totals
from app.store.runs import Runs
from app.store.schema import dead_records, deliveries, record_errors
from app.truto.events import read_envelope
from tests.support.loads import run_loads
from workers.delivery.processor import DeliveryProcessor

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
DAY = timedelta(days=1)
INVALID_RECORD = "no object"
STATS = {"crm/contacts": {"list": {"fetched": 3, "persisted": 3}}}


class StepWorker:
    """A worker whose loads begin at once."""

    def __init__(self, store: Database, routes: Routes, sinks: SinkRegistry) -> None:
        self._store, self._routes, self._sinks = store, routes, sinks
        self._processor = DeliveryProcessor(store, routes, sinks, name="worker")

    def deliver(self, ids: Sequence[UUID]) -> None:
        """Process deliveries, then all loads."""
        self._processor.deliver(ids)
        if self._sinks.has_loads("lake"):
            run_loads(self._store, self._routes, self._sinks)


class DeliveredStore:
    """A store, a database sink "main" in the same database, and a files sink "lake".

    has_loads: False for a database sink "lake" instead, which workers write delivery by delivery.
    """

    def __init__(self, url: str, folder: Path, *, has_loads: bool = True) -> None:
        self.url, self.lake = url, folder / "lake"
        self.settings = {"DATABASE_URL": url, "ROUTES_FILE": str(folder / "routes.toml")}
        lake = f'type = "files"\nurl = "file://{self.lake}"'
        if not has_loads:
            lake = f'type = "sql"\nurl = "sqlite:///{folder}/lake.db"'
        routes = (
            f'[sinks.main]\ntype = "sql"\nurl = "{url}"\n'
            f"[sinks.lake]\n{lake}\n"
            '[[routes]]\nresource = "crm/*"\nsinks = ["main", "lake"]\n'
        )
        (folder / "routes.toml").write_text(routes)
        self.routes = read_routes(routes, source="routes.toml", variables={})
        self.store = open_database(url)
        migrate(self.store)
        self.inbox = Inbox(self.store)
        self.sinks = SinkRegistry(self.routes)
        self.worker = StepWorker(self.store, self.routes, self.sinks)

    def close(self) -> None:
        self.sinks.close()
        self.store.close()

    def make_delivery(
        self, name: str, event: str = "record", *, days_ago: float = 0, **payload: Any
    ) -> IncomingDelivery:
        inner = {"sync_job_run_id": "r", "integrated_account_id": "a1", "resource": "crm/contacts"}
        inner |= {"method": "list", **payload}
        about = {"id": name, "event": f"sync_job_run:{event}", "created_at": "2026-11-24T10:00:00Z"}
        body = json.dumps(about | {"payload": inner}).encode()
        at = NOW - timedelta(days=days_ago)
        return IncomingDelivery(body, hashlib.sha256(body).digest(), at, read_envelope(body))

    def put(self, name: str, event: str = "record", **overrides: Any) -> UUID:
        """Receive one body, as the web process does."""
        return self.inbox.put([self.make_delivery(name, event, **overrides)])[0].delivery_id

    def deliver(self, name: str, event: str = "record", **overrides: Any) -> UUID:
        delivery = self.put(name, event, **overrides)
        self.worker.deliver([delivery])
        return delivery

    def set_state(self, delivery: UUID, state: str) -> None:
        with self.store.engine.begin() as connection:
            connection.execute(update(deliveries).where(deliveries.c.id == delivery).values(state=state))

    def add_run(self, account: str, run: str, *, days_ago: float = 0) -> list[UUID]:
        """Add a completed run with two kinds of dead records, a record error and an unrouted page."""
        ids: dict[str, Any] = {"integrated_account_id": account, "sync_job_run_id": run, "days_ago": days_ago}
        run_payload = {"id": run, "args": {"email": f"{account}@example.com"}}
        return [
            self.deliver(f"{run} 1", records=[{"id": f"{run}-1", "name": account}, INVALID_RECORD], **ids),
            self.deliver(f"{run} 2", records=[{"id": f"{run}-2", "name": account}], **ids),
            self.deliver(f"{run} 3", records=[{"id": "u"}], resource="hr/people", **ids),
            self.deliver(f"{run} 4", "record_error", error={"message": f"{account} is away"}, **ids),
            self.deliver(f"{run} 5", "completed", **run_payload, **ids, resource_stats=STATS),
        ]

    def read_totals(self, runs: Sequence[str]) -> list[tuple[RunTotals, Reconciliation]]:
        """Return the totals and the reconciliations of runs."""
        figures, run_store = read_run_totals(self.store, runs), Runs(self.store)
        results = []
        for run_id in runs:
            run = run_store.get(run_id)
            assert run, run_id
            figure = figures[run_id]
            ordered = RunTotals(sorted(figure.batches, key=str), sorted(figure.sinks, key=str), figure.errors)
            results.append((ordered, reconcile_counts(run, ordered)))
        return results

    def read_bodies(self) -> dict[UUID, bytes]:
        """Return the compressed body of every delivery."""
        with self.store.engine.connect() as connection:
            rows = connection.execute(select(deliveries.c.id, deliveries.c.body))
            return {row.id: row.body for row in rows}

    def count_raw_records(self) -> int:
        """Count dead records and record errors with their original JSON."""
        with self.store.engine.connect() as connection:
            return sum(
                connection.execute(select(func.count()).where(table.c.raw != "")).scalar_one()
                for table in (dead_records, record_errors)
            )

    def count_rows_by_account(self) -> dict[str, int]:
        """Count the rows of the database sink by account."""
        with self.store.engine.connect() as connection:
            rows = connection.execute(text('SELECT "_account", count(*) FROM crm_contacts GROUP BY 1')).all()
        return {row[0]: row[1] for row in rows}

    def count_files(self, account: str) -> int:
        """Count the files of an account in the files sink."""
        return len(list(self.lake.glob(f"resource=*/account={account}/**/*.jsonl.gz")))
