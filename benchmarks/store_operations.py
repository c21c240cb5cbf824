"""The cost of the service's calls to its store."""

import itertools
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import text

from app.database.engine import Database, open_database
from app.errors import StoreUnavailable
from app.store.due_deliveries import DueDeliveries
from app.store.inbox import Inbox
from app.store.models import (
    Delivery,
    DeliveryResult,
    DeliveryState,
    IncomingDelivery,
    RunUpdate,
    SinkOutcome,
    SinkOutcomeState,
    StateChange,
)
from app.store.pending import PendingDeliveries
from app.store.results import DeliveryResults
from app.store.run_totals import read_run_totals
from app.store.runs import Runs
from app.store.schema import deliveries, sink_outcomes
from app.truto.events import Envelope
from benchmarks.seeded_inbox import (
    BODY,
    DELIVERIES_PER_RUN,
    connect_without_limits,
    run_id_for,
    vacuum_tables,
)

Result = TypeVar("Result")
Situation = Literal["history", "surprise", "unvacuumed", "backlog"]

BATCH_SIZE = 16
MAX_PER_SWEEP = 512
_WORKER = "benchmark"
_LEASE_S = 40.0
# The service's statement timeout: a count that exceeds it is recorded with it.
_STATEMENT_TIMEOUT_US = 15e6
# A session's counters reach the shared ones at the end of a transaction, once this asked for it.
_FLUSH = text("SELECT pg_stat_force_next_flush()")
_BUFFERS = text(
    "SELECT pg_backend_pid(), pg_stat_get_db_blocks_fetched(oid) FROM pg_database "
    "WHERE datname = current_database()"
)


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one call. elapsed_us: its caller's time. cpu_us: the server's. buffers: pages it read."""

    elapsed_us: float
    cpu_us: float
    buffers: float


@dataclass(frozen=True, slots=True)
class Sample:
    """The cost of a call, divided by its number of deliveries."""

    situation: Situation
    size: int
    operation: str
    cost: Cost


class Probe:
    """Measures calls over the store's only connection, while nothing else uses its database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._own_buffers = 0.0
        self._own_buffers = min(self.measure(lambda: None)[1].buffers for _ in range(9))

    def measure(self, call: Callable[[], Result]) -> tuple[Result, Cost]:
        """Return the call's result and its cost."""
        pid, buffers_before = self._read_buffers()
        cpu_before_ns, started = _read_cpu_ns(pid), time.perf_counter()
        result = call()
        elapsed_us = (time.perf_counter() - started) * 1e6
        cpu_us = (_read_cpu_ns(pid) - cpu_before_ns) / 1e3
        pid_after, buffers = self._read_buffers()
        assert pid == pid_after, "the store has changed its connection"
        return result, Cost(elapsed_us, cpu_us, buffers - buffers_before - self._own_buffers)

    def _read_buffers(self) -> tuple[int, int]:
        self._database.read(_FLUSH)
        [row] = self._database.read(_BUFFERS)
        return int(row[0]), int(row[1])


def _read_cpu_ns(pid: int) -> int:
    # Exact while the process waits, as between two calls.
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


class MeasuredInbox(AbstractContextManager["MeasuredInbox"]):
    """An inbox of one size, in one situation; a context manager. `call_all` adds to `samples`."""

    _numbers = itertools.count(time.time_ns())

    def __init__(self, url: str, size: int, situation: Situation) -> None:
        self.samples: list[Sample] = []
        self.size = size
        self._url = url
        self._situation = situation
        self._has_backlog = situation in ("surprise", "backlog")
        self._run_count = max(1, size // DELIVERIES_PER_RUN)
        self._own_run = str(uuid4())
        self._settled: list[UUID] = []

    def __enter__(self) -> Self:
        self._database = open_database(self._url)
        self._inbox, self._pending = Inbox(self._database), PendingDeliveries(self._database)
        self._due = DueDeliveries(self._database)
        self._results, self._probe = DeliveryResults(self._database), Probe(self._database)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def call_all(self) -> None:
        """Accept a batch of deliveries, lease and settle it; with a backlog, settle older ones instead."""
        incoming = [self._make_delivery() for _ in range(BATCH_SIZE)]
        receipts = self._measure("accept", BATCH_SIZE, lambda: self._inbox.put(incoming))
        ids = [receipt.delivery_id for receipt in receipts]
        now = datetime.now(UTC)
        # Due again at once, so that the backlog stays as it is.
        due = self._measure(
            "sweep",
            MAX_PER_SWEEP if self._has_backlog else 1,
            lambda: self._due.lease(now=now, limit=MAX_PER_SWEEP, requeue_after_s=0.0).deliveries,
        )
        if self._has_backlog:
            ids = [delivery.id for delivery in due[:BATCH_SIZE]]
        self._measure("recall", BATCH_SIZE, lambda: self._pending.make_all_due(now=datetime.now(UTC)))
        self._measure("release, none", 1, lambda: self._release("nobody"))
        leased = self._measure("claim", BATCH_SIZE, lambda: self._lease(ids))
        assert len(leased) == BATCH_SIZE
        self._measure("release, 16", BATCH_SIZE, lambda: self._release(_WORKER))
        leased = self._lease(ids)
        for delivery in leased[:4]:
            self._measure("read", 1, partial(self._inbox.read_body, delivery.id))
        results = [_make_result(delivery) for delivery in leased]
        self._settled += self._measure(
            "settle", BATCH_SIZE, lambda: self._results.save(results, now=datetime.now(UTC))
        )
        self._measure_reads()

    def measure_count(self) -> None:
        """Count all deliveries by state, which is known to grow with the inbox."""
        try:
            self._measure("count", 1, self._inbox.count_by_state)
        except StoreUnavailable:
            cost = Cost(_STATEMENT_TIMEOUT_US, _STATEMENT_TIMEOUT_US, 0)
            self.samples.append(Sample(self._situation, self.size, "count", cost))

    def restore(self) -> None:
        """Undo the changes of `call_all`, and vacuum if the situation is a vacuumed one."""
        with connect_without_limits(self._url) as connection:
            connection.execute(
                f"DELETE FROM {sink_outcomes.name} WHERE delivery_id = ANY(%s)", (self._settled,)
            )
            connection.execute(f"DELETE FROM {deliveries.name} WHERE sync_job_run_id = %s", (self._own_run,))
            connection.execute(
                f"UPDATE {deliveries.name} SET state = 'pending', settled_at = NULL, due_at = now() "
                "WHERE id = ANY(%s)",
                (self._settled,),
            )
        self._settled.clear()
        if self._situation in ("history", "backlog"):
            vacuum_tables(self._url)

    def _measure_reads(self) -> None:
        run_id = run_id_for(random.randrange(self._run_count))
        self._measure("oldest pending", 1, self._pending.find_oldest_received_at)
        totals = self._measure("totals of a run", 1, lambda: read_run_totals(self._database, [run_id]))
        assert sum(group.batches for group in totals[run_id].batches) >= DELIVERIES_PER_RUN
        self._measure("status of a run", 1, lambda: Runs(self._database).get(run_id))
        self._measure("read, any", 1, partial(self._inbox.read_body, self._pick_delivery(run_id)))

    def _lease(self, ids: list[UUID]) -> list[Delivery]:
        return self._pending.lease(ids, worker=_WORKER, now=datetime.now(UTC), lease_s=_LEASE_S)

    def _release(self, worker: str) -> object:
        return self._pending.release_worker(worker, now=datetime.now(UTC))

    def _pick_delivery(self, run_id: str) -> UUID:
        """Return the id of a random delivery of a run."""
        statement = text(
            f"SELECT id FROM {deliveries.name} WHERE sync_job_run_id = :run "
            "ORDER BY id LIMIT 1 OFFSET :offset"
        )
        offset = random.randrange(DELIVERIES_PER_RUN)
        [(delivery_id,)] = self._database.read(statement, {"run": run_id, "offset": offset})
        assert isinstance(delivery_id, UUID)
        return delivery_id

    def _make_delivery(self) -> IncomingDelivery:
        now, name = datetime.now(UTC), str(UUID(int=next(self._numbers)))
        return IncomingDelivery(
            BODY.replace(b'"c-1"', f'"{name}"'.encode()),
            name.encode(),
            now,
            Envelope(
                event_id=name,
                event="sync_job_run:record",
                webhook_id="benchmark",
                sync_job_run_id=self._own_run,
                resource="crm/contacts",
                method="list",
                created_at=now,
            ),
        )

    def _measure(self, operation: str, deliveries_per_call: int, call: Callable[[], Result]) -> Result:
        result, cost = self._probe.measure(call)
        share = Cost(
            cost.elapsed_us / deliveries_per_call,
            cost.cpu_us / deliveries_per_call,
            cost.buffers / deliveries_per_call,
        )
        self.samples.append(Sample(self._situation, self.size, operation, share))
        return result


def _make_result(delivery: Delivery) -> DeliveryResult:
    now = datetime.now(UTC)
    return DeliveryResult(
        StateChange(delivery.id, DeliveryState.SETTLED, 1, "", due_at=delivery.received_at),
        run=RunUpdate(delivery.envelope.sync_job_run_id, "", "", "", now),
        outcomes=[SinkOutcome(delivery.id, "main", SinkOutcomeState.DONE, 1, 0, "", "", now)],
    )
