"""Guarantees of the store, on every database."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import func, inspect, select, text, update

from app.database.engine import Database, open_database
from app.database.late_flush import commit_without_flush
from app.errors import StoreUnavailable
from app.store.inbox import Inbox
from app.store.migrate import find_newer_revision, is_current, migrate, migrate_as_owner
from app.store.models import (
    DeadRecord,
    Delivery,
    DeliveryResult,
    DeliveryState,
    IncomingDelivery,
    RunUpdate,
    SinkOutcome,
    SinkOutcomeState,
    StateChange,
    StoredRecordError,
    delivery_id_for,
)
from app.store.pending import PendingDeliveries
from app.store.results import DeliveryResults
from app.store.roles import MissingRights, find_missing_rights
from app.store.run_totals import BatchTotals, RunTotals, SinkTotals, read_run_totals
from app.store.runs import Runs
from app.store.schema import PREFIX, VERSION_TABLE, dead_records, deliveries, metadata, record_errors
from app.truto.events import Envelope
from tests.support.due import lease_due

NOW = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
RECORD = "sync_job_run:record"


@pytest.fixture
def inbox(store: Database) -> Inbox:
    return Inbox(store)


@pytest.fixture
def pending_deliveries(store: Database) -> PendingDeliveries:
    return PendingDeliveries(store)


@pytest.fixture
def delivery_results(store: Database) -> DeliveryResults:
    return DeliveryResults(store)


def make_delivery(
    body: bytes = b"{}",
    *,
    received_at: datetime = NOW,
    state: DeliveryState = DeliveryState.PENDING,
    reason: str = "",
    **envelope_fields: Any,
) -> IncomingDelivery:
    digest = hashlib.sha256(body).digest()
    envelope = replace(Envelope(event=RECORD, sync_job_run_id="run"), **envelope_fields)
    return IncomingDelivery(body, digest, received_at, envelope, state, reason)


def claim_all(
    pending_deliveries: PendingDeliveries, ids: list[UUID], *, now: datetime = NOW
) -> list[Delivery]:
    return pending_deliveries.lease(ids, worker="worker", now=now, lease_s=40)


def make_state_change(
    delivery_id: UUID, state: str = "settled", *, records: int = 0, due_at: datetime = NOW
) -> StateChange:
    return StateChange(delivery_id, state, records, "", due_at)  # type: ignore[arg-type]  # a state


def test_migrations_lead_to_the_schema(store: Database) -> None:
    def ours(_thing: object, name: str | None, kind: str, *_: object) -> bool:
        return kind != "table" or name != VERSION_TABLE

    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True})
        differences = compare_metadata(context, metadata)

    assert differences == []
    assert is_current(store)


def test_a_database_without_the_newest_revision_is_not_current(store: Database) -> None:
    with store.engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0001'"))

    assert not is_current(store)


def test_the_tables_of_a_newer_release_are_current_and_stay_as_they_are(store: Database) -> None:
    assert find_newer_revision(store) is None
    with store.engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))

    assert migrate(store) == ("9999", "9999")
    assert is_current(store)
    assert find_newer_revision(store) == "9999"


def test_every_table_has_the_prefix_that_sinks_avoid(store: Database) -> None:
    names = inspect(store.engine).get_table_names()

    assert len(names) >= len(metadata.tables)
    assert all(name.startswith(PREFIX) for name in names)


def test_migrating_again_changes_nothing(store: Database) -> None:
    before, after = migrate(store)

    assert before == after


def test_concurrent_migrations_succeed(empty_url: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        stores = [open_database(empty_url) for _ in range(2)]
        revisions = {after for _, after in pool.map(migrate, stores)}

    assert len(revisions) == 1
    assert all(is_current(store) for store in stores)
    for item in stores:
        item.close()


def test_deliveries_are_stored_beside_a_read_transaction(store: Database, store_url: str) -> None:
    other = open_database(store_url, lock_timeout_s=0)

    with store.read_transaction() as connection:
        before = connection.execute(select(func.count()).select_from(deliveries)).scalar_one()
        Inbox(other).put([make_delivery()])
        after = connection.execute(select(func.count()).select_from(deliveries)).scalar_one()

    # In SQLite, all reads are of the same moment.
    assert (before, after) == (0, 1 if store.dialect.name == "postgresql" else 0)
    other.close()


def test_the_error_for_missing_tables_names_the_migrate_command(empty_url: str) -> None:
    empty = open_database(empty_url)

    with pytest.raises(StoreUnavailable, match="rapidbridge migrate"):
        Inbox(empty).put([make_delivery()])

    empty.close()


@pytest.mark.parametrize(("default", "used"), [("off", "on"), ("remote_apply", "remote_apply")])
def test_a_commit_waits_for_the_disk_with_any_server_default(
    postgres_url: str, default: str, used: str
) -> None:
    engine = open_database(postgres_url)
    name = engine.engine.url.database
    with engine.engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = {default}"))
        connection.commit()
    engine.close()

    with engine.engine.connect() as connection:
        connection.rollback()
        assert connection.execute(text("SHOW synchronous_commit")).scalar_one() == used
    engine.close()


def test_a_lease_waits_for_no_disk_and_other_commits_still_do(postgres_url: str) -> None:
    store = open_database(postgres_url)
    migrate(store)
    [receipt] = Inbox(store).put([IncomingDelivery(b"{}", b"x", NOW)])
    condition = commit_without_flush(store.dialect.name)
    show = text("SHOW synchronous_commit")
    with store.engine.connect() as connection:
        assert connection.execute(update(deliveries).where(*condition).values(attempts=0)).rowcount == 1
        assert connection.scalar(show) == "off"
        connection.commit()
        assert connection.scalar(show) == "on"

    assert PendingDeliveries(store).lease([receipt.delivery_id], worker="w", now=NOW, lease_s=40)
    assert lease_due(store, now=NOW + timedelta(hours=1), limit=1, requeue_after_s=60)
    with store.engine.connect() as connection:
        assert connection.scalar(show) == "on"
    store.close()


def test_a_body_is_read_back_unchanged(inbox: Inbox, pending_deliveries: PendingDeliveries) -> None:
    body = b'{"name": "\xf0\x9f\x98\x80", "nul": "\\u0000"}' * 100

    [receipt] = inbox.put([make_delivery(body, event_id="e\x001\ud800")])

    assert inbox.read_body(receipt.delivery_id) == body
    [delivery] = claim_all(pending_deliveries, [receipt.delivery_id])
    assert delivery.envelope.event_id == "e\ufffd1\ufffd"
    assert delivery.received_at == NOW


def test_the_same_delivery_is_stored_once_and_counted(inbox: Inbox) -> None:
    one, other = make_delivery(b"one", event_id="e"), make_delivery(b"other", event_id="e")

    receipts = [*inbox.put([one, one, other]), *inbox.put([one])]

    assert [receipt.is_duplicate for receipt in receipts] == [False, True, False, True]
    assert len({receipt.delivery_id for receipt in receipts}) == 2
    assert inbox.count_by_state() == {"pending": 2, "duplicate": 2}


def test_a_commit_leaves_its_connection_transactional(store: Database, inbox: Inbox) -> None:
    inbox.put([make_delivery(b"1")])

    # The pool has one connection, that of the commit.
    with store.engine.connect() as connection:
        connection.execute(deliveries.delete())
        connection.rollback()

    assert inbox.count_by_state() == {"pending": 1, "duplicate": 0}


def test_an_id_is_made_of_event_and_body_and_sorts_by_time() -> None:
    early, late = NOW, NOW + timedelta(days=1)

    assert delivery_id_for("e", early, b"x") == delivery_id_for("e", early, b"x")
    assert (
        len(
            {
                delivery_id_for("e", early, b"x"),
                delivery_id_for("f", early, b"x"),
                delivery_id_for("e", early, b"y"),
            }
        )
        == 3
    )
    assert delivery_id_for("e", early, b"x") < delivery_id_for("e", late, b"x")
    assert delivery_id_for("e", None, b"x").version == 8
    assert delivery_id_for("e", datetime(1900, 1, 1, tzinfo=UTC), b"x").version == 8


def test_only_one_of_many_workers_leases_a_delivery(
    inbox: Inbox, pending_deliveries: PendingDeliveries
) -> None:
    ids = [receipt.delivery_id for receipt in inbox.put([make_delivery(b"%d" % n) for n in range(50)])]

    with ThreadPoolExecutor(4) as workers:
        claims = list(workers.map(lambda _: claim_all(pending_deliveries, ids), range(8)))

    claimed = [delivery.id for claim in claims for delivery in claim]
    assert sorted(claimed) == sorted(ids)


def test_a_delivery_is_leased_again_after_its_lease_ended(
    inbox: Inbox, pending_deliveries: PendingDeliveries
) -> None:
    ids = [inbox.put([make_delivery()])[0].delivery_id]
    [first] = claim_all(pending_deliveries, ids)

    assert claim_all(pending_deliveries, ids, now=NOW + timedelta(seconds=39)) == []
    [second] = claim_all(pending_deliveries, ids, now=NOW + timedelta(seconds=41))
    assert (first.attempts, second.attempts) == (1, 2)


def test_consecutive_lost_attempts_are_counted(
    inbox: Inbox, pending_deliveries: PendingDeliveries, delivery_results: DeliveryResults
) -> None:
    ids = [inbox.put([make_delivery()])[0].delivery_id]
    update = []

    for number in range(5):
        now = NOW + timedelta(minutes=number)
        [delivery] = claim_all(pending_deliveries, ids, now=now)
        update.append((delivery.attempts, delivery.lost_attempts))
        if number == 2:
            delivery_results.save([DeliveryResult(make_state_change(ids[0], "pending", due_at=now))], now=now)

    assert update == [(1, 0), (2, 1), (3, 2), (4, 0), (5, 1)]


def test_deliveries_of_a_dead_worker_are_due_at_once_and_count_as_lost(
    inbox: Inbox, pending_deliveries: PendingDeliveries
) -> None:
    ids = [inbox.put([make_delivery()])[0].delivery_id]
    claim_all(pending_deliveries, ids)

    assert pending_deliveries.release_worker("another", now=NOW) == 0
    assert claim_all(pending_deliveries, ids) == []
    assert pending_deliveries.release_worker("worker", now=NOW) == 1
    [delivery] = claim_all(pending_deliveries, ids)
    assert delivery.lost_attempts == 1


def test_released_deliveries_are_due_at_once_and_not_counted_as_lost(
    store: Database, inbox: Inbox, pending_deliveries: PendingDeliveries, delivery_results: DeliveryResults
) -> None:
    held, woken, settled, another = [inbox.put([make_delivery(b"%d" % n)])[0].delivery_id for n in range(4)]
    lease_due(store, now=NOW + timedelta(seconds=10), limit=10, requeue_after_s=60)
    claim_all(pending_deliveries, [held, settled])
    delivery_results.save([DeliveryResult(make_state_change(settled))], now=NOW)
    pending_deliveries.lease([another], worker="another", now=NOW, lease_s=40)

    number = pending_deliveries.release([held, woken, settled, another], worker="worker", now=NOW)

    due = lease_due(store, now=NOW, limit=10, requeue_after_s=60)
    assert number == 2
    assert {(delivery.id, delivery.lost_attempts) for delivery in due} == {(held, 0), (woken, 0)}
    assert {delivery.attempts for delivery in due} == {0}


def test_only_unleased_deliveries_are_made_due_after_a_queue_was_lost(
    store: Database, inbox: Inbox, pending_deliveries: PendingDeliveries, delivery_results: DeliveryResults
) -> None:
    woken, held, postponed = [inbox.put([make_delivery(b"%d" % n)])[0].delivery_id for n in range(3)]
    lease_due(store, now=NOW + timedelta(seconds=10), limit=10, requeue_after_s=60)
    claim_all(pending_deliveries, [held, postponed])
    later = NOW + timedelta(seconds=100)
    delivery_results.save([DeliveryResult(make_state_change(postponed, "pending", due_at=later))], now=NOW)

    recalled = pending_deliveries.make_all_due(now=NOW + timedelta(seconds=11))

    due = lease_due(store, now=NOW + timedelta(seconds=12), limit=10, requeue_after_s=60)
    assert (recalled, [delivery.id for delivery in due]) == (1, [woken])


def test_the_sweeper_finds_deliveries_that_were_never_enqueued(
    store: Database, inbox: Inbox, pending_deliveries: PendingDeliveries
) -> None:
    [receipt] = inbox.put([make_delivery()])

    def wake(seconds: float) -> list[UUID]:
        return [
            d.id for d in lease_due(store, now=NOW + timedelta(seconds=seconds), limit=10, requeue_after_s=60)
        ]

    assert wake(1) == []
    assert wake(10) == [receipt.delivery_id]
    assert wake(20) == []
    assert wake(71) == [receipt.delivery_id]


def test_two_feeders_do_not_enqueue_the_same_deliveries(store: Database, inbox: Inbox) -> None:
    inbox.put([make_delivery(b"%d" % n) for n in range(60)])
    later = NOW + timedelta(minutes=1)

    # Those that look for deliveries at the same moment find the same, and one of them gets each.
    with ThreadPoolExecutor(4) as feeders:
        woken = list(
            feeders.map(lambda _: lease_due(store, now=later, limit=20, requeue_after_s=60), range(40))
        )

    ids = [delivery.id for group in woken for delivery in group]
    assert len(ids) == len(set(ids)) == 60


def test_a_delivery_is_not_retried_before_it_is_due(
    store: Database, inbox: Inbox, pending_deliveries: PendingDeliveries, delivery_results: DeliveryResults
) -> None:
    [receipt] = inbox.put([make_delivery()])
    claim_all(pending_deliveries, [receipt.delivery_id])
    due_at = NOW + timedelta(seconds=100)

    delivery_results.save(
        [DeliveryResult(make_state_change(receipt.delivery_id, "pending", due_at=due_at))], now=NOW
    )

    early, late = NOW + timedelta(seconds=99), NOW + timedelta(seconds=101)
    assert claim_all(pending_deliveries, [receipt.delivery_id], now=early) == []
    assert lease_due(store, now=early, limit=10, requeue_after_s=60) == []
    assert len(lease_due(store, now=late, limit=10, requeue_after_s=60)) == 1
    assert len(claim_all(pending_deliveries, [receipt.delivery_id], now=late)) == 1


def test_a_settled_delivery_is_never_leased_again(
    store: Database, inbox: Inbox, pending_deliveries: PendingDeliveries, delivery_results: DeliveryResults
) -> None:
    [receipt] = inbox.put([make_delivery()])
    claim_all(pending_deliveries, [receipt.delivery_id])

    delivery_results.save([DeliveryResult(make_state_change(receipt.delivery_id))], now=NOW)

    later = NOW + timedelta(days=1)
    assert claim_all(pending_deliveries, [receipt.delivery_id], now=later) == []
    assert lease_due(store, now=later, limit=10, requeue_after_s=60) == []
    assert inbox.put([make_delivery()])[0].is_duplicate


def test_saving_the_same_results_twice_changes_nothing(
    inbox: Inbox, delivery_results: DeliveryResults, store: Database
) -> None:
    [receipt] = inbox.put([make_delivery(resource="crm/contacts", method="list")])
    id_ = receipt.delivery_id
    settlement = DeliveryResult(
        make_state_change(id_, records=3),
        RunUpdate("run", "job", "account", "environment", NOW),
        [SinkOutcome(id_, "main", SinkOutcomeState.DONE, 2, 1, "", "", NOW)],
        [DeadRecord(id_, "main", 1, "too_deep", "deeper than the sink can hold", "[[\x00]]", NOW)],
        [StoredRecordError(id_, 0, "run", "crm/contacts", "list", 502, "bad gateway", "{}")],
    )

    delivery_results.save([settlement], now=NOW)
    delivery_results.save([settlement], now=NOW)

    assert read_run_totals(store, ["run"])["run"] == RunTotals(
        [BatchTotals("crm/contacts", "list", "settled", "", True, batches=1, records=3, late=0)],
        [SinkTotals("crm/contacts", "list", "main", records=3, written=2, dead=1)],
        {("crm/contacts", "list"): 1},
    )
    with store.engine.connect() as connection:
        assert [row.raw for row in connection.execute(select(dead_records))] == ["[[\ufffd]]"]
        assert [row.remote_status for row in connection.execute(select(record_errors))] == [502]
    assert delivery_results.find_outcomes([id_])[id_]["main"].written == 2


def test_a_late_worker_does_not_change_a_settled_delivery(
    inbox: Inbox, delivery_results: DeliveryResults, store: Database
) -> None:
    [receipt] = inbox.put([make_delivery()])
    id_ = receipt.delivery_id
    done, failing = (
        SinkOutcome(id_, "main", state, 1, 0, "", "", NOW)
        for state in (SinkOutcomeState.DONE, SinkOutcomeState.FAILING)
    )
    in_time, late = (
        DeliveryResult(make_state_change(id_), outcomes=[done]),
        DeliveryResult(make_state_change(id_, "pending"), outcomes=[failing]),
    )

    concluded = [delivery_results.save([item], now=NOW) for item in (in_time, late)]

    assert concluded == [{id_}, set()]
    assert delivery_results.find_outcomes([id_]) == {id_: {"main": done}}


def test_only_the_owner_of_a_lease_saves_its_result(
    inbox: Inbox, delivery_results: DeliveryResults, pending_deliveries: PendingDeliveries
) -> None:
    [receipt] = inbox.put([make_delivery()])
    id_ = receipt.delivery_id
    pending_deliveries.lease([id_], worker="stalled", now=NOW, lease_s=40)
    later = NOW + timedelta(seconds=41)
    pending_deliveries.lease([id_], worker="successor", now=later, lease_s=40)
    result = DeliveryResult(make_state_change(id_))

    saved = [delivery_results.save([result], now=later, worker=name) for name in ("stalled", "successor")]

    assert saved == [set(), {id_}]


def test_run_totals_separate_sinks_and_pending_batches(
    inbox: Inbox, delivery_results: DeliveryResults, store: Database
) -> None:
    first, second = (
        receipt.delivery_id
        for receipt in inbox.put(
            [make_delivery(b"%d" % n, resource="tickets", method="list") for n in range(2)]
        )
    )

    done = SinkOutcome(first, "main", SinkOutcomeState.DONE, 5, 0, "", "", NOW)
    failing = SinkOutcome(first, "lake", SinkOutcomeState.FAILING, 0, 0, "sink_unavailable", "", NOW)
    delivery_results.save(
        [DeliveryResult(make_state_change(first, "pending", records=5), outcomes=[done, failing])], now=NOW
    )

    figures = read_run_totals(store, ["run"])["run"]
    assert sorted(figures.batches, key=lambda group: group.records) == [
        BatchTotals("tickets", "list", "pending", "", False, batches=1, records=0, late=0),
        BatchTotals("tickets", "list", "pending", "", True, batches=1, records=5, late=0),
    ]
    assert sorted(figures.sinks, key=lambda sink: sink.sink) == [
        SinkTotals("tickets", "list", "lake", records=5, written=0, dead=0),
        SinkTotals("tickets", "list", "main", records=5, written=5, dead=0),
    ]
    assert delivery_results.find_outcomes([first, second])[first] == {"main": done, "lake": failing}


def test_failed_deliveries_are_part_of_their_run(
    inbox: Inbox, delivery_results: DeliveryResults, store: Database
) -> None:
    [receipt] = inbox.put([make_delivery(event="sync_job_run:record_error")])
    error = StoredRecordError(receipt.delivery_id, 0, "run", "crm/deals", "list", 403, "", "{}")

    delivery_results.save(
        [DeliveryResult(make_state_change(receipt.delivery_id), record_errors=[error])], now=NOW
    )

    assert read_run_totals(store, ["run"])["run"] == RunTotals((), (), {("crm/deals", "list"): 1})


def make_run_update(status: str, at_s: float, rank: int) -> RunUpdate:
    return RunUpdate("run", "job", "a", "e", NOW, "w", status, NOW + timedelta(seconds=at_s), rank, "{}")


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("backwards", [True, False])
def test_a_run_has_the_status_of_its_newest_event(
    inbox: Inbox, delivery_results: DeliveryResults, store: Database, *, together: bool, backwards: bool
) -> None:
    sights = [
        make_run_update("created", 0, 0),
        make_run_update("running", 1, 1),
        make_run_update("completed", 1, 3),
    ]
    sights.append(RunUpdate("run", "", "", "", NOW))  # only a batch
    if backwards:
        sights.reverse()
    receipts = inbox.put([make_delivery(b"%d" % number) for number in range(len(sights))])
    fields = [
        DeliveryResult(make_state_change(receipt.delivery_id), run=sight)
        for receipt, sight in zip(receipts, sights, strict=True)
    ]
    groups = [fields] if together else [[item] for item in fields]

    for group in groups:
        delivery_results.save(group, now=NOW)

    run = Runs(store).get("run")
    assert run
    assert (run.status, run.sync_job_id) == ("completed", "job")


def test_an_unknown_run_is_none(store: Database) -> None:
    assert Runs(store).get("run") is None


@pytest.mark.parametrize("together", [True, False])
def test_the_first_decision_about_a_delivery_holds(inbox: Inbox, *, together: bool) -> None:
    def decided(body: bytes, reason: str) -> IncomingDelivery:
        return make_delivery(
            body, state=DeliveryState.REFUSED if reason else DeliveryState.PENDING, reason=reason
        )

    incoming_deliveries = [
        decided(b"1", "no"),
        decided(b"2", ""),
        decided(b"1", ""),
        decided(b"2", "no"),
        decided(b"1", "never"),
    ]
    groups = [incoming_deliveries] if together else [[item] for item in incoming_deliveries]

    receipts = [receipt for group in groups for receipt in inbox.put(group)]

    assert [receipt.is_duplicate for receipt in receipts] == [False, False, True, True, True]
    assert [receipt.refusal_reason for receipt in receipts] == ["no", None, "no", None, "no"]
    assert inbox.count_by_state() == {"pending": 1, "refused": 1, "duplicate": 3}


def test_a_role_that_migrates_and_writes_lacks_no_right(store: Database) -> None:
    assert find_missing_rights(store) == MissingRights()
    assert migrate_as_owner(store, "")[0] == migrate_as_owner(store, "")[1]
