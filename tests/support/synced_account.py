"""A job's runs whose events are received and processed at the clock of a test."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from redis import Redis
from sqlalchemy import text

from app.config.delivery_config import DeliveryConfig
from app.config.load import Config
from app.config.routes import Route, Routes
from app.config.settings import read_settings
from app.config.sinks import SinkConfig, SqlSinkConfig
from app.database.engine import Database, open_database, open_engine
from app.replay.operations import start_replay
from app.replay.request import ReplayRequest
from app.sinks.registry import SinkRegistry
from app.sinks.sql.sink import SqlSink
from app.store.delete_checks import DeleteCheck, DeleteChecks
from app.store.delivery_filter import DeliveryFilter
from app.store.inbox import Inbox
from app.store.models import IncomingDelivery
from app.truto.events import read_envelope
from tests.support.redis_keys import open_spool
from tests.support.replaced_sink import ReplacedSink
from tests.support.replays import BY_TEST, execute
from workers.background.delete_marker import DeleteMarker
from workers.background.monitor import Monitor
from workers.delivery.processor import DeliveryProcessor

PAGE_SIZE = 100


class InterruptedSink(SqlSink):
    """The real sink, with a call of a test's own when it has marked a thousand rows."""

    def __init__(self, url: str, interrupt: Callable[[], object]) -> None:
        super().__init__(url)
        self._interrupt = interrupt

    def mark_unseen_rows(self, *arguments: Any) -> Iterator[int]:
        pages = super().mark_unseen_rows(*arguments)
        yield next(pages)
        self._interrupt()
        yield from pages


class SyncedAccount:
    """A store with a SQL sink, and the runs of jobs. route: values of its route. before: earlier routes."""

    def __init__(
        self, store: Database, sink_url: str, redis: Redis, *, before: Sequence[Route] = (), **route: Any
    ) -> None:
        self.store = store
        self.sink_url = sink_url
        self.sink_engine = open_engine(sink_url)
        sinks: dict[str, SinkConfig] = {"main": SqlSinkConfig(type="sql", url=sink_url)}
        tracked = {"sinks": ("main",), "resource": "crm/*", "track_deletes": True}
        self.routes = Routes(sinks=sinks, routes=(*before, Route.model_validate(tracked | route)))
        self.sinks = SinkRegistry(self.routes)
        self.now = datetime.now(UTC) - timedelta(days=1)
        self.checks = DeleteChecks(store)
        config = Config(read_settings({}), self.routes)
        self.monitor = Monitor(store, config, open_spool(redis, store), clock=lambda: self.now)
        self.markers: list[DeleteMarker] = []
        self.interrupted: list[InterruptedSink] = []
        self.marker = self.add_marker("marker")
        self.events = 0

    def add_marker(self, owner: str, interrupt: Callable[[], object] | None = None) -> DeleteMarker:
        """Return a marker of another process. interrupt: called when it has marked a thousand rows."""
        marker = DeleteMarker(self.store, self.routes, owner=owner, clock=lambda: self.now)
        if interrupt:
            self.interrupted.append(InterruptedSink(self.sink_url, interrupt))
            marker._sinks = ReplacedSink(self.routes, "main", self.interrupted[-1])
        self.markers.append(marker)
        return marker

    def close(self) -> None:
        self.monitor.close()
        self.sinks.close()
        for marker in self.markers:
            marker.close()
        for sink in self.interrupted:
            sink.close()
        self.sink_engine.dispose()

    def receive(
        self, event: str, payload: Any, *, at: datetime | None = None, webhook: str = "webhook"
    ) -> UUID:
        self.events += 1
        self.now += timedelta(seconds=1)
        created_at = (at or self.now).isoformat()
        envelope = {"id": f"e{self.events}", "event": event, "created_at": created_at, "payload": payload}
        envelope["webhook_id"] = webhook
        body = json.dumps(envelope).encode()
        incoming = IncomingDelivery(body, hashlib.sha256(body).digest(), self.now, read_envelope(body))
        return Inbox(self.store).put([incoming])[0].delivery_id

    def process(self, ids: Iterable[UUID]) -> None:
        DeliveryProcessor(self.store, self.routes, self.sinks).deliver(list(ids))

    def replay(self, ids: Sequence[UUID]) -> None:
        request = ReplayRequest(DeliveryFilter(ids=tuple(ids)))
        config = DeliveryConfig.build(self.routes, late_records="deliver", to_open_run=False)
        execute(self.store, start_replay(self.store, request, requester=BY_TEST, config=config))
        self.process(ids)

    def send_pages(
        self,
        run: str,
        ids: Iterable[Any],
        *,
        account: str = "account",
        job: str = "job",
        webhook: str = "webhook",
        page_size: int = PAGE_SIZE,
        **payload: Any,
    ) -> list[UUID]:
        records = [{"id": str(id_), "run": run} for id_ in ids]
        names = {"sync_job_run_id": run, "sync_job_id": job, "integrated_account_id": account}
        pages = [records[start : start + page_size] for start in range(0, len(records), page_size)]
        shared = {"resource": "crm/contacts", "method": "list", **names, **payload}
        return [
            self.receive("sync_job_run:record", {**shared, "records": page}, webhook=webhook)
            for page in pages
        ]

    def send_end(
        self,
        run: str,
        fetched: int,
        *,
        status: str = "completed",
        account: str = "account",
        job: str = "job",
        **details: Any,
    ) -> UUID:
        stats = {"crm/contacts": {"list": {"fetched": fetched, "persisted": fetched}}}
        names = {"id": run, "sync_job_id": job, "integrated_account_id": account}
        payload = {**names, "status": status, "resource_stats": stats, **details}
        return self.receive(f"sync_job_run:{'completed' if status == 'completed' else 'updated'}", payload)

    def send_error(self, run: str, resource: str) -> UUID:
        error = {"sync_job_run_id": run, "resource": resource, "method": "list", "error": {"status": 502}}
        return self.receive("sync_job_run:record_error", error)

    def sync(self, run: str, ids: Iterable[Any], **run_details: Any) -> None:
        """A whole run, processed in order and reconciled."""
        ids = list(ids)
        names = {name: run_details[name] for name in ("account", "job") if name in run_details}
        pages = self.send_pages(run, ids, **names)
        self.process([*pages, self.send_end(run, len(ids), **run_details)])
        self.reconcile()

    def reconcile(self) -> None:
        self.now += timedelta(minutes=3)
        self.monitor.run_once()
        self.marker.run_once()

    def list_deleted(self, account: str = "account", *, table: str = "crm_contacts") -> set[str]:
        statement = text(
            f'SELECT "_key" FROM {table} WHERE "_deleted_at" IS NOT NULL AND "_account" = :account'
        )
        with self.sink_engine.begin() as connection:
            return set(connection.execute(statement, {"account": account}).scalars())

    def get_check(self, run: str) -> DeleteCheck:
        checks = self.checks.list_of_run(run, limit=10)
        [check] = (check for check in checks if check.resource == "crm/contacts")
        return check

    def find_result(self, run: str) -> tuple[str, str]:
        check = self.get_check(run)
        return str(check.state), str(check.reason)


Open = Callable[..., SyncedAccount]


@contextmanager
def opened_accounts(store_url: str, sink_url: str, redis: Redis) -> Iterator[Open]:
    """Yield a function that opens accounts, all in one store and one sink."""
    store = open_database(store_url)
    opened: list[SyncedAccount] = []

    def open_account(**route: Any) -> SyncedAccount:
        opened.append(SyncedAccount(store, sink_url, redis, **route))
        return opened[-1]

    yield open_account
    for account in opened:
        account.close()
    store.close()
