"""PostgreSQL's statistics and autovacuum of the store's tables."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from app.database.engine import Database, open_database
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import Delivery, DeliveryResult, DeliveryState, IncomingDelivery, StateChange
from app.store.pending import PendingDeliveries
from app.store.results import DeliveryResults
from app.store.schema import deliveries

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
THEN = NOW - timedelta(hours=1)
MANY = 2_000
IN_A_JOB = 16
# Every delivery is read by id, and the oldest from one index entry.
FEW = 10 * IN_A_JOB


@pytest.fixture
def store(postgres_url: str) -> Iterator[Database]:
    engine = open_database(postgres_url)
    migrate(engine)
    yield engine
    engine.close()


def put(store: Database, state: DeliveryState) -> list[UUID]:
    arrivals = [
        IncomingDelivery(f"{state} {number}".encode(), f"{state} {number}".encode(), THEN, state=state)
        for number in range(MANY)
    ]
    return [receipt.delivery_id for receipt in Inbox(store).put(arrivals)]


def count_entries_read(store: Database) -> int:
    with store.engine.connect() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    with store.engine.connect() as connection:
        result = connection.execute(
            text("SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = :name"),
            {"name": deliveries.name},
        )
        return int(result.scalar_one())


def settled(delivery: Delivery) -> DeliveryResult:
    return DeliveryResult(StateChange(delivery.id, DeliveryState.SETTLED, 1, "", due_at=NOW))


def test_leasing_one_job_does_not_read_a_new_backlog(store: Database) -> None:
    put(store, DeliveryState.QUARANTINED)
    with store.engine.begin() as connection:
        connection.execute(text(f"ANALYZE {deliveries.name}"))
    ids = put(store, DeliveryState.PENDING)[:IN_A_JOB]
    pending_deliveries, before = PendingDeliveries(store), count_entries_read(store)

    claimed = pending_deliveries.lease(ids, worker="worker", now=NOW, lease_s=40)
    assert len(claimed) == pending_deliveries.release_worker("worker", now=NOW) == IN_A_JOB
    claimed = pending_deliveries.lease(ids, worker="worker", now=NOW, lease_s=40)
    assert len(DeliveryResults(store).save([settled(delivery) for delivery in claimed], now=NOW)) == IN_A_JOB
    assert pending_deliveries.find_oldest_received_at() == THEN

    assert count_entries_read(store) - before < FEW


def test_settled_deliveries_are_vacuumed_after_a_fixed_number(store: Database) -> None:
    with store.engine.connect() as connection:
        options = connection.execute(
            text("SELECT reloptions FROM pg_class WHERE relname = :name"), {"name": deliveries.name}
        ).scalar_one()

    assert {"autovacuum_vacuum_scale_factor=0", "vacuum_index_cleanup=on"} <= set(options)
