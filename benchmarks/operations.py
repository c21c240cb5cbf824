"""What the service does to its store, call by call, and what each costs in an inbox of one size."""

import itertools
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Self, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import text

from app.database.engine import open_database
from app.errors import StoreUnavailable
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
from benchmarks.inbox_of import BODY, DELIVERIES_PER_RUN, connect_without_limits, run_id, vacuum_tables
from benchmarks.probe import Cost, Probe
from benchmarks.samples import Sample, Situation

Result = TypeVar("Result")

BATCH_SIZE = 16
MAX_PER_SWEEP = 512
_HOLDER = "benchmark"
_LEASE_S = 40.0


class MeasuredInbox(AbstractContextManager["MeasuredInbox"]):
    """An inbox of one size, in one situation; a context manager. `work` calls everything once."""

    _numbers = itertools.count(time.time_ns())

    def __init__(self, url: str, size: int, situation: Situation) -> None:
        self.samples: list[Sample] = []
        self.size = size
        self._url = url
        self._situation = situation
        self._is_behind = situation in ("surprise", "backlog")
        self._runs = max(1, size // DELIVERIES_PER_RUN)
        self._fresh_run = str(uuid4())
        self._settled: list[UUID] = []

    def __enter__(self) -> Self:
        self._store = open_database(self._url)
        self._inbox, self._worklist = Inbox(self._store), PendingDeliveries(self._store)
        self._ledger, self._probe = DeliveryResults(self._store), Probe(self._store)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()

    def call_all(self) -> None:
        """Take deliveries in and through; in a backlog, others than those that came."""
        arrivals = [self._arrival() for _ in range(BATCH_SIZE)]
        receipts = self._take("accept", BATCH_SIZE, lambda: self._inbox.put(arrivals))
        ids = [receipt.delivery_id for receipt in receipts]
        now = datetime.now(UTC)
        # Due again at once: the backlog goes round and stays as it is.
        woken = self._take(
            "sweep",
            MAX_PER_SWEEP if self._is_behind else 1,
            lambda: self._worklist.lease_due(now=now, limit=MAX_PER_SWEEP, requeue_after_s=0.0),
        )
        if self._is_behind:
            ids = [delivery.id for delivery in woken[:BATCH_SIZE]]
        self._take("recall", BATCH_SIZE, lambda: self._worklist.make_all_due(now=datetime.now(UTC)))
        self._take("release, none", 1, lambda: self._worklist.release_worker("nobody", now=datetime.now(UTC)))
        claimed = self._take("claim", BATCH_SIZE, lambda: self._claim(ids))
        assert len(claimed) == BATCH_SIZE
        self._take(
            "release, 16", BATCH_SIZE, lambda: self._worklist.release_worker(_HOLDER, now=datetime.now(UTC))
        )
        claimed = self._claim(ids)
        for delivery in claimed[:4]:
            self._take("read", 1, partial(self._inbox.read_body, delivery.id))
        settlements = [_settlement(delivery) for delivery in claimed]
        done = self._take("settle", BATCH_SIZE, lambda: self._ledger.save(settlements, now=datetime.now(UTC)))
        self._settled += done
        self._look()

    def measure_count(self) -> None:
        """Count all; known to cost as much as there is."""
        try:
            self._take("count", 1, self._inbox.count_by_state)
        except StoreUnavailable:
            # It took longer than a statement may.
            limit_us = 15e6
            self.samples.append(Sample(self._situation, self.size, "count", Cost(limit_us, limit_us, 0)))

    def restore(self) -> None:
        """Bring back how it was before, and vacuum it."""
        with connect_without_limits(self._url) as connection:
            connection.execute(
                f"DELETE FROM {sink_outcomes.name} WHERE delivery_id = ANY(%s)", (self._settled,)
            )
            connection.execute(
                f"DELETE FROM {deliveries.name} WHERE sync_job_run_id = %s", (self._fresh_run,)
            )
            connection.execute(
                f"UPDATE {deliveries.name} SET state = 'pending', settled_at = NULL, due_at = now() "
                "WHERE id = ANY(%s)",
                (self._settled,),
            )
        self._settled.clear()
        if self._situation in ("history", "backlog"):
            vacuum_tables(self._url)

    def _look(self) -> None:
        run = run_id(random.randrange(self._runs))
        self._take("oldest pending", 1, self._worklist.find_oldest_received_at)
        totals = self._take("totals of a run", 1, lambda: read_run_totals(self._store, [run]))
        assert sum(group.batches for group in totals[run].batches) >= DELIVERIES_PER_RUN
        self._take("status of a run", 1, lambda: Runs(self._store).get(run))
        self._take("read, any", 1, partial(self._inbox.read_body, self._any_of(run)))

    def _claim(self, ids: list[UUID]) -> list[Delivery]:
        return self._worklist.lease(ids, worker=_HOLDER, now=datetime.now(UTC), lease_s=_LEASE_S)

    def _any_of(self, run: str) -> UUID:
        offset = random.randrange(DELIVERIES_PER_RUN)
        statement = text(
            f"SELECT id FROM {deliveries.name} WHERE sync_job_run_id = :run "
            "ORDER BY id LIMIT 1 OFFSET :offset"
        )
        with self._store.engine.connect() as connection:
            delivery_id: UUID = connection.execute(statement, {"run": run, "offset": offset}).scalar_one()
            return delivery_id

    def _arrival(self) -> IncomingDelivery:
        now, name = datetime.now(UTC), str(UUID(int=next(self._numbers)))
        return IncomingDelivery(
            BODY.replace(b'"c-1"', f'"{name}"'.encode()),
            name.encode(),
            now,
            Envelope(
                event_id=name,
                event="sync_job_run:record",
                webhook_id=_HOLDER,
                sync_job_run_id=self._fresh_run,
                resource="crm/contacts",
                method="list",
                created_at=now,
            ),
        )

    def _take(self, operation: str, number: int, call: Callable[[], Result]) -> Result:
        result, cost = self._probe.measure(call)
        each = Cost(cost.elapsed_us / number, cost.cpu_us / number, cost.buffers / number)
        self.samples.append(Sample(self._situation, self.size, operation, each))
        return result


def _settlement(delivery: Delivery) -> DeliveryResult:
    now = datetime.now(UTC)
    return DeliveryResult(
        StateChange(delivery.id, DeliveryState.SETTLED, 1, "", due_at=delivery.received_at),
        run=RunUpdate(delivery.envelope.sync_job_run_id, "", "", "", now),
        outcomes=[SinkOutcome(delivery.id, "main", SinkOutcomeState.DONE, 1, 0, "", "", now)],
    )
