"""Processing of stored deliveries into sink rows, on both databases."""

import hashlib
import json
import re
import signal
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from app.config.routes import ColumnConfig, Route, Routes
from app.config.sinks import FilesSinkConfig, SqlSinkConfig
from app.database.engine import Database, open_engine
from app.errors import JobTimeout, StoreUnavailable
from app.sinks.base import Batch, WriteResult
from app.sinks.registry import SinkRegistry
from app.store.column_misfits import ColumnMisfits
from app.store.inbox import Inbox
from app.store.models import IncomingDelivery
from app.store.notifications import Notifications
from app.store.pending import PendingDeliveries
from app.store.requeue import delete_outcomes, mark_pending
from app.store.results import DeliveryResults
from app.store.run_totals import SinkTotals, read_run_totals
from app.store.runs import Runs
from app.store.schema import dead_records, deliveries, record_errors, sink_outcomes, sink_states
from app.store.sink_status import list_failing_sinks
from app.truto import json_scanner
from app.truto.events import read_envelope
from app.truto.record_slices import MAX_SLICE_BYTES
from app.truto.runs import RecordCounts, read_resource_stats
from tests.support.due import lease_due
from tests.support.replaced_sink import ReplacedSink
from tests.support.replays import begin_replay
from tests.support.slice_files import SliceFiles
from workers.background.releaser import Releaser
from workers.background.sink_monitor import SinkMonitor
from workers.delivery.processor import DeliveryProcessor

EVERYTHING = (Route(sinks=("main",)),)


class DeliverySetup:
    """Puts bodies into a store and delivers them."""

    def __init__(self, store: Database, url: str, routes: tuple[Route, ...], **sinks: Any) -> None:
        self.store = store
        self.inbox = Inbox(store)
        self.pending = PendingDeliveries(store)
        all_routes = Routes(sinks={"main": SqlSinkConfig(type="sql", url=url), **sinks}, routes=routes)
        self.sinks = SinkRegistry(all_routes)
        self.routes = all_routes
        self.processor = self.new_processor()

    def new_processor(self, name: str = "") -> DeliveryProcessor:
        return DeliveryProcessor(self.store, self.routes, self.sinks, name=name)

    def put(
        self, event: str, payload: str, *, id_: str = "e", created_at: str = "2026-11-24T10:00:00Z"
    ) -> UUID:
        about = json.dumps({"event": event, "id": id_, "created_at": created_at})
        # "\udcff" is the byte 0xff, which is no UTF-8.
        body = f'{about[:-1]}, "payload": {payload}}}'.encode(errors="surrogateescape")
        digest = hashlib.sha256(body).digest()
        [receipt] = self.inbox.put([IncomingDelivery(body, digest, datetime.now(UTC), read_envelope(body))])
        return receipt.delivery_id

    def deliver(self, event: str, payload: str, **about: str) -> UUID:
        delivery_id = self.put(event, payload, **about)
        self.processor.deliver([delivery_id])
        return delivery_id

    def release(self) -> None:
        """End all leases, as after the backoff, and all waits for sinks."""
        with self.store.engine.begin() as connection:
            connection.execute(deliveries.update().values(leased_until=None))
            connection.execute(sink_states.update().values(retry_at=datetime.now(UTC)))

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
def setup(store: Database, store_url: str) -> Iterator[DeliverySetup]:
    setup = DeliverySetup(store, store_url, EVERYTHING)
    yield setup
    setup.sinks.close()


def batch(records: str, **more: Any) -> str:
    about = {"sync_job_run_id": "r", "integrated_account_id": "a", "resource": "crm/contacts"}
    about |= {"method": "list", **more}
    return json.dumps(about)[:-1] + f', "records": {records}}}'


def test_a_batch_becomes_rows_and_is_settled(setup: DeliverySetup) -> None:
    delivery = setup.deliver("sync_job_run:record", batch('[{"id": "1"}, {"id": "2"}]'))

    assert setup.state(delivery) == ("settled", "", 2)
    assert setup.rows("crm_contacts") == {"1": {"id": "1"}, "2": {"id": "2"}}
    assert read_run_totals(setup.store, ["r"])["r"].sinks == [
        SinkTotals("crm/contacts", "list", "main", 2, 2, 0)
    ]
    assert setup.status("r") == ""


def test_hostile_records_are_kept_apart_and_the_rest_is_written(setup: DeliverySetup) -> None:
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

    delivery = setup.deliver("sync_job_run:record", batch(f"[{', '.join(hostile.values())}]"))

    assert setup.state(delivery) == ("settled", "", len(hostile))
    with setup.store.engine.connect() as connection:
        assert connection.execute(select(deliveries.c.replaced_characters)).scalar_one() == 2
    rows = setup.rows("crm_contacts")
    assert {"ok-1", "ok-2"} < set(rows)
    [replaced] = [record for record in rows.values() if record.get("id") == "nul\ufffd"]
    assert replaced["lone"] == "\ufffd"
    assert rows["ok-2"]["name"] == "😀"
    assert sum(key.startswith("sha256:") for key in rows) == 3
    with setup.store.engine.connect() as connection:
        dead = {row.ordinal: (row.reason, row.raw) for row in connection.execute(select(dead_records))}
    assert dead == {
        2: ("number_out_of_range", hostile[2]),
        3: ("not_a_number", hostile[3]),
        4: ("number_out_of_range", hostile[4]),
        5: ("too_deep", hostile[5]),
        6: ("not_object", hostile[6]),
        10: ("not_json", hostile[10]),
    }
    assert read_run_totals(setup.store, ["r"])["r"].sinks == [
        SinkTotals("crm/contacts", "list", "main", 11, 5, 6)
    ]


@pytest.mark.parametrize(
    ("args", "read"),
    [
        ('{"a": "x\ty", "b": 1}', {"a": "x\ty", "b": 1}),
        ('{"a": "x\n\x01y", "b": 1}', {"a": "x\n\x01y", "b": 1}),
        ('{"a": "x\0y", "b": 1}', {"a": "x\ufffdy", "b": 1}),
        ('{"a": "x\udcffy", "b": 1}', {"a": "x\ufffdy", "b": 1}),
        ('{"a": "x\\ud800y", "b": 1}', {"a": "x\ufffdy", "b": 1}),
        ('{"a": "x\\u0000y", "b": 1}', {"a": "x\ufffdy", "b": 1}),
        (f'{{"a": {"9" * 5000}, "b": 1}}', {"a": None, "b": 1}),
        (f'{{"a": [1, {{"c": {"9" * 5000}, "d": 2}}], "b": 1}}', {"a": [1, {"c": None, "d": 2}], "b": 1}),
        ('{"a": NaN, "b": 1}', {"a": None, "b": 1}),
        ('{"a": 1e400, "b": 1}', {"a": None, "b": 1}),
        ('{"a": 01, "b": 1}', {"a": None, "b": 1}),
        ('{"a": ' + "[" * 5000 + "]" * 5000 + ', "b": 1}', {"b": 1}),
        ('{"a": 1, "a": 2, "b": 1}', {"a": 2, "b": 1}),
        ('{"a": {"c": 1,}, "b": 1}', {"a": None, "b": 1}),
        ('{"a": 1,}', None),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_an_odd_argument_loses_neither_the_end_nor_the_statistics_of_a_run(
    setup: DeliverySetup, args: str, read: dict[str, Any] | None
) -> None:
    stats = '"resource_stats": {"crm/contacts": {"list": {"fetched": 7, "persisted": 7}}}'

    setup.deliver("sync_job_run:completed", f'{{"id": "r", "args": {args}, "status": "completed", {stats}}}')

    run = Runs(setup.store).get("r")
    assert run
    assert run.run
    details = json.loads(run.run)
    assert run.status == "completed"
    assert read_resource_stats(details["resource_stats"]) == {("crm/contacts", "list"): RecordCounts(7, 7)}
    if isinstance(details["args"], dict):
        # Values that are nested too deeply are left out in parts.
        details["args"] = {name: details["args"].get(name) for name in read or ()}
    assert details["args"] == read


@pytest.mark.parametrize(
    ("records", "keys"), [('{"id": "1"}', ["1"]), ("[]", []), ('[{"id": "1"}, {"id": "1"}]', ["1"])]
)
def test_a_batch_may_hold_one_record_no_record_or_a_record_twice(
    setup: DeliverySetup, records: str, keys: list[str]
) -> None:
    setup.deliver("sync_job_run:record", batch('[{"id": "0"}]'), id_="first")

    delivery = setup.deliver("sync_job_run:record", batch(records))

    assert setup.state(delivery)[0] == "settled"
    assert sorted(setup.rows("crm_contacts")) == ["0", *keys]


@pytest.mark.parametrize("payload", ["{}", "null", '"text"', "[]", '{"records": null}'])
def test_a_batch_without_records_is_quarantined(setup: DeliverySetup, payload: str) -> None:
    assert setup.state(setup.deliver("sync_job_run:record", payload)) == ("quarantined", "no_records", 0)


def test_record_errors_become_rows_of_their_own(setup: DeliverySetup) -> None:
    error = '"error": {"status": 502, "message": "bad"}'
    one = f'{{"sync_job_run_id": "r", "resource": "a", "method": "list", {error}}}'
    many = (
        '{"sync_job_run_id": "r", "errors": [{"resource": "b", "method": "get"}, "odd", {"status": "404"}]}'
    )

    states = [setup.state(setup.deliver("sync_job_run:record_error", payload)) for payload in (one, many)]

    assert states == [("settled", "", 0)] * 2
    errors = read_run_totals(setup.store, ["r"])["r"].errors
    assert errors == {("a", "list"): 1, ("b", "get"): 1, ("", ""): 2}
    with setup.store.engine.connect() as connection:
        rows = {
            (row.resource, row.method, row.remote_status, row.message, row.raw)
            for row in connection.execute(select(record_errors))
        }
    assert ("a", "list", 502, "bad", one) in rows
    assert ("b", "get", None, "", '{"resource": "b", "method": "get"}') in rows
    assert ("", "", None, "odd", '"odd"') in rows
    assert ("", "", 404, "", '{"status": "404"}') in rows


def test_the_latest_event_sets_a_runs_status_in_any_order(setup: DeliverySetup) -> None:
    events = [
        ("created", "created", "10:00:00"),
        ("started", "running", "10:00:01"),
        ("updated", "running", "10:00:11"),
        ("stopped", "running", "10:00:12"),
    ]
    for action, status, time in reversed(events):
        payload = json.dumps({"id": "r", "status": status, "resource_stats": {"x": {}}})
        setup.deliver(f"sync_job_run:{action}", payload, id_=action, created_at=f"2026-11-24T{time}Z")

    assert setup.status("r") == "stopped"


def test_a_batch_that_no_route_matches_is_unrouted(store: Database, store_url: str) -> None:
    setup = DeliverySetup(store, store_url, (Route(sinks=("main",), resource="crm/*"),))

    routed = setup.deliver("sync_job_run:record", batch('[{"id": "1"}]'))
    unmatched = setup.deliver("sync_job_run:record", batch('[{"id": "1"}]', resource="hris/employees"))

    assert setup.state(routed)[0] == "settled"
    assert setup.state(unmatched) == ("unrouted", "no_route", 1)
    setup.sinks.close()


def test_other_events_are_settled_and_written_only_if_a_route_names_them(
    store: Database, store_url: str
) -> None:
    routes = (
        Route(sinks=("main",), event="integrated_account:*"),
        Route(sinks=(), event="batch_job:*"),
        *EVERYTHING,
    )
    setup = DeliverySetup(store, store_url, routes)

    states = [
        setup.state(setup.deliver(event, '{"id": "x", "name": "n"}'))
        for event in ("integrated_account:created", "batch_job:done", "test", "something:new", "record:meta")
    ]

    assert states == [("settled", "", 1), ("settled", "", 1), *[("settled", "", 0)] * 3]
    assert setup.rows("integrated_account") == {"x": {"id": "x", "name": "n"}}
    setup.sinks.close()


def test_a_key_that_no_record_has_is_notified_until_a_delivery_has_it(
    store: Database, store_url: str
) -> None:
    setup = DeliverySetup(store, store_url, (Route(sinks=("main",), key="properties.hs_object_id"),))
    with_key, without_key = '[{"properties": {"hs_object_id": 7}}]', '[{"id": "1"}, {"id": "2"}]'
    kept = Notifications(store)

    def send(records: str, account: str, id_: str) -> UUID:
        payload = batch(records, integrated_account_id=account)
        return setup.deliver("sync_job_run:record", payload, id_=id_)

    send(with_key, "a1", "1")
    assert kept.list_open("key.missing") == []

    first = send(without_key, "a2", "2")
    send(without_key, "a2", "3")
    send(without_key, "a3", "4")
    [notification] = kept.list_open("key.missing")
    assert notification.payload == {
        "resource": "crm/contacts",
        "integrated_account_id": "a2",
        "delivery": str(first),
        "key": "properties.hs_object_id",
        "missing_key": "hash",
    }
    assert len(setup.rows("crm_contacts")) == 3

    setup.processor = setup.new_processor("another worker")
    send(with_key, "a1", "5")
    assert kept.list_open("key.missing") == [notification]
    send(with_key, "a2", "6")
    assert kept.list_open("key.missing") == []
    setup.sinks.close()


def test_a_route_without_a_key_ends_the_notification_of_its_key(store: Database, store_url: str) -> None:
    for key, open_count in (("uid", 1), ("", 0)):
        setup = DeliverySetup(store, store_url, (Route(sinks=("main",), key=key),))
        setup.deliver("sync_job_run:record", batch('[{"id": "1"}]'), id_=f"with {key}")
        assert len(Notifications(store).list_open("key.missing")) == open_count
        assert next(iter(setup.rows("crm_contacts"))).startswith("sha256:")
        setup.sinks.close()


def test_decimals_pass_a_worker_unchanged(store: Database, store_url: str) -> None:
    columns = {"amount": ColumnConfig(type="text")}
    setup = DeliverySetup(store, store_url, (Route(sinks=("main",), key="amount", columns=columns),))
    amounts = ["100000000000000000.01", "0.92156863212585449", "1.10"]

    records = [f'{{"amount": {n}}}' for n in amounts]

    setup.deliver("sync_job_run:record", batch(f"[{', '.join(records)}]"))

    statement = text('SELECT "_key", "amount", CAST("data" AS text) FROM crm_contacts ORDER BY "_vseq"')
    with store.engine.connect() as connection:
        rows = [(key, amount, data.replace(" ", "")) for key, amount, data in connection.execute(statement)]
    assert rows == [(n, n, f'{{"amount":{n}}}') for n in amounts]
    setup.sinks.close()


def test_single_record_events_create_update_and_delete_rows(setup: DeliverySetup) -> None:
    about = '"integrated_account_id": "a", "resource": "crm/contacts"'
    current = f'{{{about}, "record": {{"id": "1", "name": "n"}}}}'
    deleted_record = f'{{{about}, "record": {{"id": "1"}}}}'

    setup.deliver("record:created", current, id_="1", created_at="2026-11-24T10:00:00Z")
    setup.deliver("record:deleted", deleted_record, id_="2", created_at="2026-11-24T10:00:02Z")
    setup.deliver("record:updated", current, id_="3", created_at="2026-11-24T10:00:01Z")

    with setup.store.engine.connect() as connection:
        [deleted] = connection.execute(text('SELECT "_deleted_at" FROM crm_contacts')).scalars()
    assert deleted is not None
    assert setup.rows("crm_contacts") == {"1": {"id": "1", "name": "n"}}


@pytest.mark.parametrize("event", ["record:meta", "record:reindexed"])
def test_an_event_about_records_that_is_no_change_of_one_writes_no_row(
    setup: DeliverySetup, event: str
) -> None:
    about = '"integrated_account_id": "a", "resource": "crm/contacts"'
    setup.deliver("record:created", f'{{{about}, "record": {{"id": "1", "name": "n"}}}}')

    meta = setup.deliver(event, f'{{{about}, "id": "1", "fields": []}}', id_="meta")

    assert setup.state(meta) == ("settled", "", 0)
    assert setup.rows("crm_contacts") == {"1": {"id": "1", "name": "n"}}


def test_one_failing_sink_neither_blocks_nor_repeats_the_others(
    store: Database, store_url: str, tmp_path: Path
) -> None:
    other = SqlSinkConfig(type="sql", url=f"sqlite:///{tmp_path}/other.db")
    away = SqlSinkConfig(type="sql", url=f"postgresql://nobody@/none?host={tmp_path}")
    routes = (Route(sinks=("other", "away", "main")),)
    setup = DeliverySetup(store, store_url, routes, other=other, away=away)

    delivery = setup.deliver("sync_job_run:record", batch('[{"id": "1"}]'))

    assert setup.state(delivery) == ("pending", "sink_unavailable", 1)
    assert list(setup.rows("crm_contacts")) == ["1"]
    engine = open_engine(other.url)
    with engine.begin() as connection:
        assert connection.execute(text("DELETE FROM crm_contacts")).rowcount == 1
    # The sink is reachable again, and the backoff is over.
    there = SqlSinkConfig(type="sql", url=f"sqlite:///{tmp_path}/there.db")
    repaired = DeliverySetup(store, store_url, routes, other=other, away=there)
    repaired.release()
    repaired.processor.deliver([delivery])
    assert setup.state(delivery) == ("settled", "", 1)
    with store.engine.connect() as connection:
        states = {row.sink: row.state for row in connection.execute(select(sink_outcomes))}
    assert states == {"other": "done", "away": "done", "main": "done"}
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM crm_contacts")).scalar_one() == 0
    engine.dispose()
    setup.sinks.close()
    repaired.sinks.close()


def test_a_delivery_that_its_sink_refuses_waits_for_the_correction(store: Database, store_url: str) -> None:
    setup = DeliverySetup(store, store_url, (Route(sinks=("main",), table="rapidbridge_runs"),))
    delivery = setup.deliver("sync_job_run:record", batch('[{"id": "1"}, {"id": "2"}]'))
    assert setup.state(delivery) == ("pending", "table_reserved", 2)
    [failing] = list_failing_sinks(store)
    assert (failing.sink, failing.reason, failing.waiting.number) == ("main", "table_reserved", 1)
    assert "set another `table`" in failing.message

    corrected = DeliverySetup(store, store_url, EVERYTHING)
    corrected.release()
    corrected.processor.deliver([delivery])

    assert corrected.state(delivery) == ("settled", "", 2)
    # Its table has another name now, so that no worker tries the old one again.
    Releaser(store, clock=lambda: datetime.now(UTC) + timedelta(minutes=1)).run_once()
    assert list_failing_sinks(store) == []
    assert read_run_totals(store, ["r"])["r"].sinks == [SinkTotals("crm/contacts", "list", "main", 2, 2, 0)]
    for opened in (setup, corrected):
        opened.sinks.close()


def test_ids_keep_the_difference_of_their_replaced_characters(setup: DeliverySetup) -> None:
    ids = (r"a\u0000", r"a\ud800", "a\ufffd", "a\udcff", "a")
    records = ", ".join(f'{{"id": "{id_}"}}' for id_ in ids)

    first = setup.deliver("sync_job_run:record", batch(f"[{records}]"))
    second = setup.deliver("sync_job_run:record", batch(f"[{records}]"), id_="again")

    assert setup.state(first) == setup.state(second) == ("settled", "", 5)
    assert len(setup.rows("crm_contacts")) == 5
    assert {"a", "a\ufffd"} < set(setup.rows("crm_contacts"))


def test_an_account_with_a_replaced_character_is_not_taken_for_another(
    store: Database, store_url: str
) -> None:
    setup = DeliverySetup(store, store_url, (Route(sinks=("main",), account="tenant"),))
    records = ", ".join(
        f'{{"id": "1", "tenant": "{tenant}"}}' for tenant in ("t\ufffd", r"t\u0000", "t\udcff")
    )

    delivery = setup.deliver(
        "sync_job_run:record",
        f'{{"resource": "crm/contacts", "method": "list", "sync_job_run_id": "r", "records": [{records}]}}',
    )

    assert setup.state(delivery) == ("settled", "", 3)
    with store.engine.connect() as connection:
        assert connection.execute(text('SELECT "_account" FROM crm_contacts')).scalars().all() == ["t\ufffd"]
        dead = connection.execute(select(dead_records.c.ordinal, dead_records.c.reason)).all()
    assert sorted(map(tuple, dead)) == [(1, "no_account"), (2, "no_account")]
    setup.sinks.close()


def test_a_retyped_column_is_notified_and_its_delivery_is_written_after_the_correction(
    store: Database, store_url: str
) -> None:
    retyped = Route(sinks=("main",), columns={"zip": ColumnConfig(type="integer")})
    before = DeliverySetup(store, store_url, (retyped,))
    before.deliver("sync_job_run:record", batch('[{"id": "1", "zip": 1}]'))
    setup = DeliverySetup(
        store, store_url, (Route(sinks=("main",), columns={"zip": ColumnConfig(type="text")}),)
    )
    monitor, now = SinkMonitor(store), datetime.now(UTC)

    delivery = setup.deliver("sync_job_run:record", batch('[{"id": "2", "zip": "00501"}]'), id_="2")
    monitor.check_sinks(now=now)

    assert setup.state(delivery) == ("pending", "sink_set_up", 1)
    [notification] = Notifications(store).list_open("sink.failing")
    assert notification.payload["reason"] == "sink_set_up"
    message = notification.payload["message"].lower()
    is_sqlite = store.dialect.name == "sqlite"
    assert f"column zip has the type {'integer' if is_sqlite else 'bigint'} instead of text" in message
    [statement] = re.findall(r"run: (.*;)", notification.payload["message"])
    with store.engine.begin() as connection:
        connection.exec_driver_sql(statement)
    setup.release()
    # A worker reads the states of the sinks once a second.
    setup.new_processor().deliver([delivery])
    monitor.check_sinks(now=now)
    assert setup.state(delivery) == ("settled", "", 1)
    assert Notifications(store).list_open("sink.failing") == []
    with store.engine.connect() as connection:
        assert (
            connection.execute(text("SELECT zip FROM crm_contacts WHERE \"_key\" = '2'")).scalar_one()
            == "00501"
        )
    for opened in (before, setup):
        opened.sinks.close()


def test_values_that_do_not_fit_their_columns_are_counted_by_column(store: Database, store_url: str) -> None:
    columns = {"age": ColumnConfig(type="integer"), "born": ColumnConfig(type="date")}
    setup = DeliverySetup(store, store_url, (Route(sinks=("main",), columns=columns),))
    records = '[{"id": "1", "age": "old"}, {"id": "2", "age": 7, "born": 1}, {"id": "3", "age": "x"}]'

    setup.deliver("sync_job_run:record", batch(records))
    setup.new_processor().deliver([setup.put("sync_job_run:record", batch(records), id_="2")])

    misfits = ColumnMisfits(store).list_newest(limit=9)
    assert sorted((misfit.sink, misfit.resource, misfit.column, misfit.number) for misfit in misfits) == [
        ("main", "crm/contacts", "age", 4),
        ("main", "crm/contacts", "born", 2),
    ]
    ColumnMisfits(store).add({("lake", "r", "c"): 1}, now=datetime.now(UTC) + timedelta(days=31))
    assert [misfit.sink for misfit in ColumnMisfits(store).list_newest(limit=9)] == ["lake"]
    setup.sinks.close()


class _BrokenSink(SliceFiles):
    def write(self, _batch: Batch, _route: Route) -> WriteResult:
        raise ValueError("a bug")


def test_a_bug_in_a_sink_fails_only_this_sink_and_is_visible(
    store: Database, store_url: str, tmp_path: Path
) -> None:
    lake = FilesSinkConfig(type="files", url=f"file://{tmp_path}/lake")
    setup = DeliverySetup(store, store_url, (Route(sinks=("lake", "main")),), lake=lake)
    setup.sinks = ReplacedSink(setup.routes, "lake", _BrokenSink(tmp_path / "lake"))

    delivery = setup.put("sync_job_run:record", batch('[{"id": "1"}]'))
    setup.new_processor().deliver([delivery])

    assert setup.state(delivery) == ("pending", "internal_error", 1)
    assert list(setup.rows("crm_contacts")) == ["1"]
    [failing] = list_failing_sinks(store)
    assert (failing.sink, failing.reason) == ("lake", "internal_error")
    assert "ValueError at " in failing.message
    setup.sinks.close()


def test_workers_that_race_over_the_same_ids_write_every_record_once(setup: DeliverySetup) -> None:
    ids = [
        setup.put("sync_job_run:record", batch(f'[{{"id": "{number % 7}", "n": {number}}}]'), id_=str(number))
        for number in range(40)
    ]

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(lambda number: setup.new_processor(f"{number}").deliver(ids), range(8)))

    assert {setup.state(id_)[0] for id_ in ids} == {"settled"}
    totals = read_run_totals(setup.store, ["r"])["r"]
    assert totals.sinks == [SinkTotals("crm/contacts", "list", "main", 40, 40, 0)]
    assert [group.batches for group in totals.batches] == [40]


@pytest.mark.parametrize(("lost", "state"), [(0, "settled"), (2, "settled"), (3, "dead")])
def test_a_delivery_that_three_workers_were_lost_with_is_dead(
    setup: DeliverySetup, lost: int, state: str
) -> None:
    delivery = setup.put("sync_job_run:record", batch('[{"id": "1"}]'))
    for hours in range(lost, 0, -1):
        # Like workers that were killed: leased, never saved.
        long_ago = datetime.now(UTC) - timedelta(hours=hours)
        assert setup.pending.lease([delivery], worker="gone", now=long_ago, lease_s=40)

    setup.processor.deliver([delivery])

    assert setup.state(delivery)[:2] == (state, "worker_lost" if state == "dead" else "")


def test_a_worker_that_lost_its_lease_does_not_settle_a_replayed_delivery(setup: DeliverySetup) -> None:
    delivery = setup.put("sync_job_run:record", batch('[{"id": "1"}]'))
    main, successor = setup.sinks.open("main"), setup.new_processor("successor")

    class StalledSink:
        """Writes, and stalls until another worker has settled the delivery and a replay has requeued it."""

        def write(self, written: Batch, route: Route) -> WriteResult:
            result = main.write(written, route)
            setup.release()
            successor.deliver([delivery])
            assert setup.state(delivery)[0] == "settled"
            replay = begin_replay(setup.store, now=datetime.now(UTC))
            with setup.store.transaction() as connection:
                mark_pending(connection, [delivery], replay_id=replay.id, now=datetime.now(UTC))
                delete_outcomes(connection, [delivery], "")
            return result

    stalled = DeliveryProcessor(
        setup.store,
        setup.routes,
        ReplacedSink(setup.routes, "main", StalledSink()),  # type: ignore[arg-type]  # only writes
        name="stalled",
    )
    stalled.deliver([delivery])

    assert setup.state(delivery)[0] == "pending"
    assert DeliveryResults(setup.store).find_outcomes([delivery]) == {delivery: {}}
    successor.deliver([delivery])
    assert setup.state(delivery)[0] == "settled"
    assert setup.rows("crm_contacts") == {"1": {"id": "1"}}


def test_a_bug_fails_only_its_own_delivery(setup: DeliverySetup) -> None:
    good = setup.put("sync_job_run:record", batch('[{"id": "1"}]'))
    bad = setup.put("sync_job_run:record", batch('[{"id": "2"}]'), id_="bad")
    with setup.store.engine.begin() as connection:
        connection.execute(deliveries.update().where(deliveries.c.id == bad).values(body=b"no body"))

    setup.processor.deliver([bad, good])

    assert setup.state(good)[0] == "settled"
    assert setup.state(bad)[:2] == ("pending", "internal_error")


def test_the_next_job_releases_unsaved_deliveries_without_a_lost_attempt(
    setup: DeliverySetup,
) -> None:
    ids = [setup.put("sync_job_run:record", batch('[{"id": "1"}]'), id_=str(n)) for n in range(3)]
    for _ in range(5):
        _rename(setup.store, "rapidbridge_sink_outcomes", "elsewhere")
        with pytest.raises(StoreUnavailable):
            setup.processor.deliver(ids[:2])
        _rename(setup.store, "elsewhere", "rapidbridge_sink_outcomes")

    setup.processor.deliver(ids[2:])

    assert setup.state(ids[2])[0] == "settled"
    leased = setup.pending.lease(ids, worker="another", now=datetime.now(UTC), lease_s=40)
    assert [(delivery.id, delivery.lost_attempts) for delivery in leased] == [(id_, 0) for id_ in ids[:2]]


def test_deliveries_of_jobs_during_a_store_outage_are_due_afterwards(setup: DeliverySetup) -> None:
    ids = [setup.put("sync_job_run:record", batch('[{"id": "1"}]'), id_=str(n)) for n in range(3)]
    lease_due(setup.store, now=datetime.now(UTC) + timedelta(minutes=1), limit=10, requeue_after_s=600)
    _rename(setup.store, "rapidbridge_deliveries", "elsewhere")
    for id_ in ids[:2]:
        with pytest.raises(StoreUnavailable):
            setup.processor.deliver([id_])
    _rename(setup.store, "elsewhere", "rapidbridge_deliveries")

    setup.processor.deliver(ids[2:])

    due = lease_due(setup.store, now=datetime.now(UTC), limit=10, requeue_after_s=60)
    assert {delivery.id for delivery in due} == set(ids[:2])


def test_only_a_body_that_takes_too_long_to_read_is_retried_later(setup: DeliverySetup) -> None:
    # One record is never read in steps, and no parser reads this one.
    endless = batch(f"[[{'{},' * 3_000_000}NaN]]")
    good = setup.put("sync_job_run:record", batch('[{"id": "1"}]'), created_at="2026-11-24T09:00:00Z")
    slow = setup.put("sync_job_run:record", endless, created_at="2026-11-24T10:00:00Z")
    # Large as well: small deliveries of a job come first.
    padded = batch(json.dumps([{"id": "2", "padding": " " * MAX_SLICE_BYTES}]))
    later = setup.put("sync_job_run:record", padded, created_at="2026-11-24T11:00:00Z")

    def interrupt(_number: int, frame: FrameType | None) -> None:
        # Not in the middle of a statement, where it would also test the driver.
        if any(
            each.f_globals["__name__"] == json_scanner.__name__ for each, _ in traceback.walk_stack(frame)
        ):
            raise JobTimeout("no answer")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.1)
    try:
        setup.processor.deliver([good, slow, later])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert setup.state(good)[0] == "settled"
    assert setup.state(slow)[:2] == ("pending", "out_of_time")
    assert setup.state(later)[:2] == ("pending", "")
    assert lease_due(setup.store, now=datetime.now(UTC), limit=10, requeue_after_s=60)[0].id == later


def _rename(store: Database, table: str, name: str) -> None:
    with store.engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))


@pytest.mark.parametrize(("keep_late", "state"), [(False, "settled"), (True, "late")])
@pytest.mark.parametrize("together", [True, False])
def test_late_deliveries_are_written_or_kept_as_the_setting_says(
    setup: DeliverySetup, *, keep_late: bool, state: str, together: bool
) -> None:
    early = setup.put("sync_job_run:record", batch('[{"id": "early"}]'), id_="1")
    stop = setup.put("sync_job_run:updated", '{"id": "r", "status": "stopped"}', id_="2")
    late = setup.put("sync_job_run:record", batch('[{"id": "late"}]'), id_="3")
    processor = DeliveryProcessor(setup.store, setup.routes, setup.sinks, keep_late=keep_late)

    for ids in [[early, stop, late]] if together else [[stop], [late], [early]]:
        processor.deliver(ids)

    assert setup.state(early) == ("settled", "", 1)
    assert setup.state(late)[0] == state
    assert ("late" in setup.rows("crm_contacts")) != keep_late
    [*groups] = read_run_totals(setup.store, ["r"])["r"].batches
    assert sum(group.late for group in groups) == 1
