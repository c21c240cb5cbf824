"""PostgreSQL's statistics and autovacuum of the store's tables."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from app.database.engine import Database, open_database
from app.store.due_deliveries import DueDeliveries
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import Delivery, DeliveryResult, DeliveryState, IncomingDelivery, StateChange
from app.store.pending import PendingDeliveries
from app.store.results import DeliveryResults
from app.store.schema import deliveries
from app.truto.events import Envelope

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


def count_rows_read(store: Database) -> int:
    """Return the number of rows and entries of indexes that all statements on the deliveries have read."""
    entries = count_entries_read(store)
    with store.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = :name"),
            {"name": deliveries.name},
        )
        return entries + int(rows.scalar_one())


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


@pytest.mark.parametrize("has_statistics", [True, False])
def test_a_turn_of_the_accounts_reads_no_backlog(store: Database, has_statistics: bool) -> None:
    [first] = Inbox(store).put([IncomingDelivery(b"a", b"a", THEN, Envelope(integrated_account_id="a"))])
    copied = ", ".join(column.name for column in deliveries.columns if column.name != "id")
    with store.transaction() as connection:
        connection.execute(
            text(
                f"INSERT INTO {deliveries.name} (id, {copied}) SELECT gen_random_uuid(), {copied} "
                f"FROM {deliveries.name}, generate_series(1, :number) WHERE id = :id"
            ),
            {"number": 20_000, "id": first.delivery_id},
        )
    Inbox(store).put([IncomingDelivery(b"b", b"b", NOW, Envelope(integrated_account_id="b"))])
    if has_statistics:
        with store.autocommit() as connection:
            connection.execute(text(f"ANALYZE {deliveries.name}"))
    feeder, before = DueDeliveries(store), count_rows_read(store)

    lease = feeder.lease(now=NOW + timedelta(minutes=1), limit=64, requeue_after_s=60)

    accounts = [delivery.envelope.integrated_account_id for delivery in lease.deliveries]
    assert (accounts.count("a"), accounts.count("b")) == (63, 1)
    # The oldest, those of each account, and the leased ones by id.
    assert count_rows_read(store) - before < 10 * 64


def test_settled_deliveries_are_vacuumed_after_a_fixed_number(store: Database) -> None:
    with store.engine.connect() as connection:
        options = connection.execute(
            text("SELECT reloptions FROM pg_class WHERE relname = :name"), {"name": deliveries.name}
        ).scalar_one()

    assert {"autovacuum_vacuum_scale_factor=0", "vacuum_index_cleanup=on"} <= set(options)
