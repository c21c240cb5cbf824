"""From a stored body to rows, on both databases, with everything that can be in a body."""

import hashlib
import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from app.config.routes import FilesSinkConfig, Route, Routes, SqlSinkConfig
from app.database.engine import Database
from app.errors import JobTimeout, StoreUnavailable
from app.sinks import SinkRegistry
from app.store.inbox import Inbox
from app.store.models import IncomingDelivery
from app.store.pending import PendingDeliveries
from app.store.run_totals import SinkTotals, read_run_totals
from app.store.runs import Runs
from app.store.schema import dead_records, deliveries, record_errors, sink_outcomes
from app.truto.events import read_envelope
from workers.delivery.processor import DeliveryProcessor

EVERYTHING = (Route(sinks=("main",)),)


class DeliverySetup:
    """Puts bodies into a store and delivers them."""

    def __init__(self, store: Database, url: str, routes: tuple[Route, ...], **sinks: Any) -> None:
        self.store = store
        self.inbox = Inbox(store)
        self.worklist = PendingDeliveries(store)
        all_routes = Routes(sinks={"main": SqlSinkConfig(type="sql", url=url), **sinks}, routes=routes)
        self.sinks = SinkRegistry(all_routes)
        self.routes = all_routes
        self.deliverer = self.worker()

    def worker(self, name: str = "") -> DeliveryProcessor:
        return DeliveryProcessor(self.store, self.routes, self.sinks.open, name=name)

    def put(
        self, event: str, payload: str, *, id_: str = "e", created_at: str = "2026-11-24T10:00:00Z"
    ) -> UUID:
        about = json.dumps({"event": event, "id": id_, "created_at": created_at})
        body = f'{about[:-1]}, "payload": {payload}}}'.encode()
        digest = hashlib.sha256(body).digest()
        [receipt] = self.inbox.put([IncomingDelivery(body, digest, datetime.now(UTC), read_envelope(body))])
        return receipt.delivery_id

    def deliver(self, event: str, payload: str, **about: str) -> UUID:
        delivery_id = self.put(event, payload, **about)
        self.deliverer.deliver([delivery_id])
        return delivery_id

    def state(self, delivery_id: UUID) -> tuple[str, str, int]:
        statement = select(deliveries.c.state, deliveries.c.reason, deliveries.c.records)
        with self.store.engine.connect() as connection:
            row = connection.execute(statement.where(deliveries.c.id == delivery_id)).one()
        return row.state, row.reason, row.records

    def status(self, run_id: str) -> str:
        run = Runs(self.store).get(run_id)
        assert run
        return run.status

    def rows(self, table: str) -> dict[str, Any]:
        with self.store.engine.connect() as connection:
            records = connection.execute(text(f'SELECT "_key", "data" FROM {table}')).all()
        return {key: json.loads(data) if isinstance(data, str) else data for key, data in records}


@pytest.fixture
def desk(store: Database, store_url: str) -> Iterator[DeliverySetup]:
    made = DeliverySetup(store, store_url, EVERYTHING)
    yield made
    made.sinks.close()


def batch(records: str, **more: Any) -> str:
    about = {"sync_job_run_id": "r", "resource": "crm/contacts", "method": "list", **more}
    return json.dumps(about)[:-1] + f', "records": {records}}}'


def test_a_batch_becomes_rows_and_is_settled(desk: DeliverySetup) -> None:
    delivery = desk.deliver("sync_job_run:record", batch('[{"id": "1"}, {"id": "2"}]'))

    assert desk.state(delivery) == ("settled", "", 2)
    assert desk.rows("crm_contacts") == {"1": {"id": "1"}, "2": {"id": "2"}}
    assert read_run_totals(desk.store, ["r"])["r"].sinks == [
        SinkTotals("crm/contacts", "list", "main", 2, 2, 0)
    ]
    assert desk.status("r") == ""


def test_hostile_records_are_kept_apart_and_the_rest_is_written(desk: DeliverySetup) -> None:
    hostile = {
        0: '{"id": "ok-1"}',
        1: '{"id": "nul\\u0000", "lone": "\\ud800"}',
        2: '{"id": "inf", "n": 1e400}',
        3: '{"id": "nan", "n": NaN}',
        4: '{"id": "big", "n": ' + "9" * 5000 + "}",
        5: '{"id": "deep", "n": ' + "[" * 100_000 + "]" * 100_000 + "}",
        6: '"a string where an object belongs"',
        7: '{"id": "' + "k" * 3000 + '"}',
        8: '{"no": "id"}',
        9: '{"id": "ok-2", "name": "\\ud83d\\ude00"}',
        10: "{broken}",
    }

    delivery = desk.deliver("sync_job_run:record", batch(f"[{', '.join(hostile.values())}]"))

    assert desk.state(delivery) == ("settled", "", len(hostile))
    with desk.store.engine.connect() as connection:
        assert connection.execute(select(deliveries.c.replaced_characters)).scalar_one() == 2
    rows = desk.rows("crm_contacts")
    assert {"ok-1", "nul\ufffd", "ok-2"} < set(rows)
    assert rows["nul\ufffd"]["lone"] == "\ufffd"
    assert rows["ok-2"]["name"] == "😀"
    assert sum(key.startswith("sha256:") for key in rows) == 2
    with desk.store.engine.connect() as connection:
        dead = {row.ordinal: (row.reason, row.raw) for row in connection.execute(select(dead_records))}
    assert dead == {
        2: ("number_out_of_range", hostile[2]),
        3: ("not_a_number", hostile[3]),
        4: ("number_out_of_range", hostile[4]),
        5: ("too_deep", hostile[5]),
        6: ("not_object", hostile[6]),
        10: ("not_json", hostile[10]),
    }
    assert read_run_totals(desk.store, ["r"])["r"].sinks == [
        SinkTotals("crm/contacts", "list", "main", 11, 5, 6)
    ]


@pytest.mark.parametrize(
    ("records", "keys"), [('{"id": "1"}', ["1"]), ("[]", []), ('[{"id": "1"}, {"id": "1"}]', ["1"])]
)
def test_batches_in_every_shape(desk: DeliverySetup, records: str, keys: list[str]) -> None:
    desk.deliver("sync_job_run:record", batch('[{"id": "0"}]'), id_="first")

    delivery = desk.deliver("sync_job_run:record", batch(records))

    assert desk.state(delivery)[0] == "settled"
    assert sorted(desk.rows("crm_contacts")) == ["0", *keys]


@pytest.mark.parametrize("payload", ["{}", "null", '"text"', "[]", '{"records": null}'])
def test_a_batch_without_records_is_set_aside(desk: DeliverySetup, payload: str) -> None:
    assert desk.state(desk.deliver("sync_job_run:record", payload)) == ("quarantined", "no_records", 0)


def test_record_errors_become_rows_of_their_own(desk: DeliverySetup) -> None:
    said = '"error": {"status": 502, "message": "bad"}'
    one = f'{{"sync_job_run_id": "r", "resource": "a", "method": "list", {said}}}'
    many = (
        '{"sync_job_run_id": "r", "errors": [{"resource": "b", "method": "get"}, "odd", {"status": "404"}]}'
    )

    states = [desk.state(desk.deliver("sync_job_run:record_error", payload)) for payload in (one, many)]

    assert states == [("settled", "", 0)] * 2
    errors = read_run_totals(desk.store, ["r"])["r"].errors
    assert errors == {("a", "list"): 1, ("b", "get"): 1, ("", ""): 2}
    with desk.store.engine.connect() as connection:
        found = {
            (row.resource, row.method, row.remote_status, row.message, row.raw)
            for row in connection.execute(select(record_errors))
        }
    assert ("a", "list", 502, "bad", one) in found
    assert ("b", "get", None, "", '{"resource": "b", "method": "get"}') in found
    assert ("", "", None, "odd", '"odd"') in found
    assert ("", "", 404, "", '{"status": "404"}') in found


def test_a_runs_life_is_followed_in_any_order(desk: DeliverySetup) -> None:
    events = [
        ("created", "created", "10:00:00"),
        ("started", "running", "10:00:01"),
        ("updated", "running", "10:00:11"),
        ("stopped", "running", "10:00:12"),
    ]
    for action, status, time in reversed(events):
        payload = json.dumps({"id": "r", "status": status, "resource_stats": {"x": {}}})
        desk.deliver(f"sync_job_run:{action}", payload, id_=action, created_at=f"2026-11-24T{time}Z")

    assert desk.status("r") == "stopped"


def test_what_no_route_takes_is_kept_as_unrouted(store: Database, store_url: str) -> None:
    desk = DeliverySetup(store, store_url, (Route(sinks=("main",), resource="crm/*"),))

    taken = desk.deliver("sync_job_run:record", batch('[{"id": "1"}]'))
    left = desk.deliver("sync_job_run:record", batch('[{"id": "1"}]', resource="hris/employees"))

    assert desk.state(taken)[0] == "settled"
    assert desk.state(left) == ("unrouted", "no_route", 1)
    desk.sinks.close()


def test_other_events_are_settled_and_sent_only_where_a_route_names_them(
    store: Database, store_url: str
) -> None:
    routes = (
        Route(sinks=("main",), event="integrated_account:*"),
        Route(sinks=(), event="batch_job:*"),
        *EVERYTHING,
    )
    desk = DeliverySetup(store, store_url, routes)

    states = [
        desk.state(desk.deliver(event, '{"id": "x", "name": "n"}'))
        for event in ("integrated_account:created", "batch_job:done", "test", "something:new")
    ]

    assert states == [("settled", "", 1), ("settled", "", 1), ("settled", "", 0), ("settled", "", 0)]
    assert desk.rows("integrated_account") == {"x": {"id": "x", "name": "n"}}
    desk.sinks.close()


def test_single_record_changes_are_records_too(desk: DeliverySetup) -> None:
    made = '{"resource": "crm/contacts", "record": {"id": "1", "name": "n"}}'
    gone = '{"resource": "crm/contacts", "record": {"id": "1"}}'

    desk.deliver("record:created", made, id_="1", created_at="2026-11-24T10:00:00Z")
    desk.deliver("record:deleted", gone, id_="2", created_at="2026-11-24T10:00:02Z")
    desk.deliver("record:updated", made, id_="3", created_at="2026-11-24T10:00:01Z")

    with desk.store.engine.connect() as connection:
        [deleted] = connection.execute(text('SELECT "_deleted_at" FROM crm_contacts')).scalars()
    assert deleted is not None
    assert desk.rows("crm_contacts") == {"1": {"id": "1"}}


def test_one_failing_sink_neither_blocks_nor_repeats_the_others(
    store: Database, store_url: str, tmp_path: Path
) -> None:
    lake = FilesSinkConfig(type="files", url=f"file://{tmp_path}/lake")
    away = SqlSinkConfig(type="sql", url=f"postgresql://nobody@/none?host={tmp_path}")
    desk = DeliverySetup(store, store_url, (Route(sinks=("lake", "away", "main")),), lake=lake, away=away)

    delivery = desk.deliver("sync_job_run:record", batch('[{"id": "1"}]'))

    assert desk.state(delivery) == ("pending", "sink_unavailable", 1)
    assert list(desk.rows("crm_contacts")) == ["1"]
    [file] = (tmp_path / "lake").rglob("*.jsonl")
    file.unlink()
    # The sink comes back, the backoff ends.
    mended = DeliverySetup(store, store_url, (Route(sinks=("lake", "away", "main")),), lake=lake, away=lake)
    with store.engine.begin() as connection:
        connection.execute(deliveries.update().values(leased_until=None))
    mended.deliverer.deliver([delivery])
    assert desk.state(delivery) == ("settled", "", 1)
    with store.engine.connect() as connection:
        states = {row.sink: row.state for row in connection.execute(select(sink_outcomes))}
    assert states == {"lake": "done", "away": "done", "main": "done"}
    desk.sinks.close()


def test_a_sink_that_will_never_take_it_leaves_a_dead_delivery(store: Database, store_url: str) -> None:
    desk = DeliverySetup(store, store_url, (Route(sinks=("main",), table="rapidbridge_runs"),))

    delivery = desk.deliver("sync_job_run:record", batch('[{"id": "1"}, {"id": "2"}]'))

    assert desk.state(delivery) == ("dead", "table_reserved", 2)
    assert read_run_totals(store, ["r"])["r"].sinks == [SinkTotals("crm/contacts", "list", "main", 2, 0, 2)]
    desk.sinks.close()


def test_many_workers_with_the_same_ids_leave_everything_once(desk: DeliverySetup) -> None:
    ids = [
        desk.put("sync_job_run:record", batch(f'[{{"id": "{number % 7}", "n": {number}}}]'), id_=str(number))
        for number in range(40)
    ]

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(lambda number: desk.worker(f"{number}").deliver(ids), range(8)))

    assert {desk.state(id_)[0] for id_ in ids} == {"settled"}
    figures = read_run_totals(desk.store, ["r"])["r"]
    assert figures.sinks == [SinkTotals("crm/contacts", "list", "main", 40, 40, 0)]
    assert [group.batches for group in figures.batches] == [40]


@pytest.mark.parametrize(("lost", "state"), [(0, "settled"), (2, "settled"), (3, "dead")])
def test_a_delivery_that_workers_do_not_come_back_from_is_set_aside(
    desk: DeliverySetup, lost: int, state: str
) -> None:
    delivery = desk.put("sync_job_run:record", batch('[{"id": "1"}]'))
    for hours in range(lost, 0, -1):
        # As by workers that were killed: claimed, never settled.
        long_ago = datetime.now(UTC) - timedelta(hours=hours)
        assert desk.worklist.lease([delivery], worker="gone", now=long_ago, lease_s=40)

    desk.deliverer.deliver([delivery])

    assert desk.state(delivery)[:2] == (state, "worker_lost" if state == "dead" else "")


def test_a_fault_of_ours_costs_only_its_own_delivery(desk: DeliverySetup) -> None:
    good = desk.put("sync_job_run:record", batch('[{"id": "1"}]'))
    bad = desk.put("sync_job_run:record", batch('[{"id": "2"}]'), id_="bad")
    with desk.store.engine.begin() as connection:
        connection.execute(deliveries.update().where(deliveries.c.id == bad).values(body=b"no body"))

    desk.deliverer.deliver([bad, good])

    assert desk.state(good)[0] == "settled"
    assert desk.state(bad)[:2] == ("pending", "internal_error")


def test_what_could_not_be_settled_is_let_go_with_the_next_job_and_takes_nobody_for_lost(
    desk: DeliverySetup,
) -> None:
    ids = [desk.put("sync_job_run:record", batch('[{"id": "1"}]'), id_=str(n)) for n in range(3)]
    for _ in range(5):
        _rename(desk.store, "rapidbridge_sink_outcomes", "elsewhere")
        with pytest.raises(StoreUnavailable):
            desk.deliverer.deliver(ids[:2])
        _rename(desk.store, "elsewhere", "rapidbridge_sink_outcomes")

    desk.deliverer.deliver(ids[2:])

    assert desk.state(ids[2])[0] == "settled"
    claimed = desk.worklist.lease(ids, worker="another", now=datetime.now(UTC), lease_s=40)
    assert [(delivery.id, delivery.lost_attempts) for delivery in claimed] == [(id_, 0) for id_ in ids[:2]]


def test_while_the_store_is_away_no_job_forgets_what_it_was_woken_for(desk: DeliverySetup) -> None:
    ids = [desk.put("sync_job_run:record", batch('[{"id": "1"}]'), id_=str(n)) for n in range(3)]
    desk.worklist.lease_due(now=datetime.now(UTC) + timedelta(minutes=1), limit=10, requeue_after_s=600)
    _rename(desk.store, "rapidbridge_deliveries", "elsewhere")
    for id_ in ids[:2]:
        with pytest.raises(StoreUnavailable):
            desk.deliverer.deliver([id_])
    _rename(desk.store, "elsewhere", "rapidbridge_deliveries")

    desk.deliverer.deliver(ids[2:])

    due = desk.worklist.lease_due(now=datetime.now(UTC), limit=10, requeue_after_s=60)
    assert {delivery.id for delivery in due} == set(ids[:2])


def test_a_body_that_takes_too_long_to_read_is_put_off_and_nothing_else_is(desk: DeliverySetup) -> None:
    # None of them is JSON, and each has to be looked at by itself.
    endless = batch(f"[{', '.join(['{x}'] * 400_000)}]")
    good = desk.put("sync_job_run:record", batch('[{"id": "1"}]'), created_at="2026-11-24T09:00:00Z")
    slow = desk.put("sync_job_run:record", endless, created_at="2026-11-24T10:00:00Z")
    later = desk.put("sync_job_run:record", batch('[{"id": "2"}]'), created_at="2026-11-24T11:00:00Z")

    def interrupt(*_: object) -> None:
        raise JobTimeout("it did not answer")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        desk.deliverer.deliver([good, slow, later])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert desk.state(good)[0] == "settled"
    assert desk.state(slow)[:2] == ("pending", "out_of_time")
    assert desk.state(later)[:2] == ("pending", "")
    assert desk.worklist.lease_due(now=datetime.now(UTC), limit=10, requeue_after_s=60)[0].id == later


def _rename(store: Database, table: str, name: str) -> None:
    with store.engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))


@pytest.mark.parametrize(("keep_late", "state"), [(False, "settled"), (True, "late")])
@pytest.mark.parametrize("together", [True, False])
def test_what_comes_after_a_stop_is_delivered_or_kept_as_it_is_set(
    desk: DeliverySetup, *, keep_late: bool, state: str, together: bool
) -> None:
    early = desk.put("sync_job_run:record", batch('[{"id": "early"}]'), id_="1")
    stop = desk.put("sync_job_run:updated", '{"id": "r", "status": "stopped"}', id_="2")
    late = desk.put("sync_job_run:record", batch('[{"id": "late"}]'), id_="3")
    deliverer = DeliveryProcessor(desk.store, desk.routes, desk.sinks.open, keep_late=keep_late)

    for ids in [[early, stop, late]] if together else [[stop], [late], [early]]:
        deliverer.deliver(ids)

    assert desk.state(early) == ("settled", "", 1)
    assert desk.state(late)[0] == state
    assert ("late" in desk.rows("crm_contacts")) != keep_late
    [*groups] = read_run_totals(desk.store, ["r"])["r"].batches
    assert sum(group.late for group in groups) == 1
