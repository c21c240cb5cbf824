"""Deliveries of one job that a worker writes to a table in one statement, on both databases."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, event, select, text

from app.config.routes import Route, Routes
from app.config.sinks import SqlSinkConfig
from app.database.engine import Database
from app.errors import JobTimeout, SinkUnavailable
from app.sinks.base import Batch, WriteResult
from app.sinks.registry import SinkRegistry
from app.sinks.sql.sink import SqlSink
from app.store.inbox import Inbox
from app.store.models import IncomingDelivery
from app.store.pending import PendingDeliveries
from app.store.schema import dead_records, deliveries, sink_outcomes
from app.truto.events import read_envelope
from tests.support.replaced_sink import ReplacedSink
from workers.delivery import joined_writes
from workers.delivery.processor import DeliveryProcessor

INSERT = 'INSERT INTO "crm_contacts"'


class Setup:
    """A store whose database is also the sink."""

    def __init__(self, store: Database, url: str) -> None:
        self.store = store
        self.routes = Routes(
            sinks={"main": SqlSinkConfig(type="sql", url=url)}, routes=(Route(sinks=("main",)),)
        )
        self.sinks = SinkRegistry(self.routes)
        self.processor = DeliveryProcessor(store, self.routes, self.sinks)

    def put(self, pages: Sequence[Sequence[str]], account: str = "a") -> list[UUID]:
        """Store a delivery for each page; a page names the ids of its records."""
        incoming = []
        for number, page in enumerate(pages):
            payload = {
                "sync_job_run_id": "r",
                "integrated_account_id": account,
                "resource": "crm/contacts",
                "method": "list",
                "records": [{"id": id_} for id_ in page],
            }
            about = {"event": "sync_job_run:record", "id": f"{account}{number}{page}"}
            body = json.dumps({**about, "payload": payload}).encode()
            digest = hashlib.sha256(body).digest()
            incoming.append(IncomingDelivery(body, digest, datetime.now(UTC), read_envelope(body)))
        return [receipt.delivery_id for receipt in Inbox(self.store).put(incoming)]

    def read_states(self, ids: Sequence[UUID]) -> list[tuple[str, str]]:
        statement = select(deliveries.c.id, deliveries.c.state, deliveries.c.reason)
        rows = {row.id: (row.state, row.reason) for row in self.store.read(statement)}
        return [rows[id_] for id_ in ids]

    def read_outcomes(self, ids: Sequence[UUID]) -> list[tuple[int, int]]:
        """Return the numbers of written and dead records of each delivery."""
        rows = {row.delivery_id: (row.written, row.dead) for row in self.store.read(select(sink_outcomes))}
        return [rows[id_] for id_ in ids]

    def read_keys(self) -> list[str]:
        return sorted(key for (key,) in self.store.read(text('SELECT "_key" FROM crm_contacts')))

    def execute(self, postgresql: str, sqlite: str = "") -> None:
        with self.store.engine.begin() as connection:
            connection.execute(text(postgresql if connection.dialect.name == "postgresql" else sqlite))


@pytest.fixture
def setup(store: Database, store_url: str) -> Iterator[Setup]:
    setup = Setup(store, store_url)
    # The first write creates the table.
    setup.processor.deliver(setup.put([["first"]]))
    yield setup
    setup.sinks.close()


@contextmanager
def recorded_inserts() -> Iterator[list[str]]:
    statements: list[str] = []

    def record(*arguments: Any) -> None:
        if arguments[2].startswith(INSERT):
            statements.append(arguments[2])

    event.listen(Engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", record)


def test_pages_of_one_job_share_a_statement_and_keep_their_own_outcomes(setup: Setup) -> None:
    ids = [*setup.put([["1", "2"], ["3"], []]), *setup.put([["1", "4", "5"]], account="b")]

    with recorded_inserts() as inserts:
        setup.processor.deliver(ids)

    assert len(inserts) == 1
    assert setup.read_states(ids) == [("settled", "")] * 4
    assert setup.read_outcomes(ids) == [(2, 0), (1, 0), (0, 0), (3, 0)]
    assert setup.read_keys() == sorted(["first", "1", "2", "3", "1", "4", "5"])


def test_a_statement_has_a_limit(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined_writes, "MAX_JOINED_RECORDS", 5)
    ids = setup.put([[f"{page}-{n}" for n in range(2)] for page in range(6)])

    with recorded_inserts() as inserts:
        setup.processor.deliver(ids)

    assert len(inserts) == 3
    assert setup.read_states(ids) == [("settled", "")] * 6


def test_a_rejected_record_is_dead_in_its_own_delivery_alone(setup: Setup) -> None:
    setup.execute(
        "ALTER TABLE crm_contacts ADD CONSTRAINT refused CHECK (_key <> 'bad')",
        "CREATE TRIGGER refused BEFORE INSERT ON crm_contacts WHEN NEW._key = 'bad' "
        "BEGIN SELECT RAISE(ABORT, 'refused'); END",
    )
    ids = setup.put([["1", "2"], ["3", "bad"], ["4"]])

    setup.processor.deliver(ids)

    assert setup.read_states(ids) == [("settled", "")] * 3
    assert setup.read_outcomes(ids) == [(2, 0), (1, 1), (1, 0)]
    dead = setup.store.read(select(dead_records.c.delivery_id, dead_records.c.ordinal, dead_records.c.raw))
    assert [tuple(row) for row in dead] == [(ids[1], 1, '{"id": "bad"}')]
    assert setup.read_keys() == ["1", "2", "3", "4", "first"]


class FailingSink(SqlSink):
    """Fails as a database does that cannot write one key now, and records its writes."""

    def __init__(self, url: str, error: Exception) -> None:
        super().__init__(url)
        self.error = error
        self.writes: list[list[str]] = []

    def write_batches(self, batches: Sequence[Batch], route: Route) -> Sequence[WriteResult]:
        keys = [record.key for batch in batches for record in batch.records]
        self.writes.append(keys)
        if "bad" in keys:
            raise self.error
        return super().write_batches(batches, route)


def replace_sink(setup: Setup, url: str, error: Exception) -> FailingSink:
    sink = FailingSink(url, error)
    setup.processor = DeliveryProcessor(
        setup.store, setup.routes, ReplacedSink(setup.routes, "main", sink), name="worker"
    )
    return sink


def test_a_failing_delivery_does_not_fail_those_it_was_joined_with(setup: Setup, store_url: str) -> None:
    sink = replace_sink(setup, store_url, SinkUnavailable("a lock", is_batch_timeout=True))
    ids = setup.put([["1"], ["2", "bad"], ["3"]])

    setup.processor.deliver(ids)

    assert setup.read_states(ids) == [("settled", ""), ("pending", "batch_timeout"), ("settled", "")]
    assert sink.writes == [["1", "2", "bad", "3"], ["1"], ["2", "bad"], ["3"]]
    later = setup.put([["4"], ["5"]])
    setup.processor.deliver(later)
    # For a while, nothing is joined.
    assert sink.writes[4:] == [["4"], ["5"]]
    sink.close()


def test_a_delivery_that_failed_before_is_written_alone(
    setup: Setup, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined_writes, "_PAUSE_S", 0.0)
    sink = replace_sink(setup, store_url, SinkUnavailable("a lock"))
    failed = setup.put([["1", "bad"]])
    setup.processor.deliver(failed)
    with setup.store.engine.begin() as connection:
        connection.execute(deliveries.update().values(leased_until=None))
    sink.writes.clear()

    setup.processor.deliver([*failed, *setup.put([["2"], ["3"]])])

    assert sink.writes == [["2", "3"], ["1", "bad"]]
    sink.close()


def test_a_job_that_times_out_while_joining_releases_all_without_an_attempt(
    setup: Setup, store_url: str
) -> None:
    sink = replace_sink(setup, store_url, JobTimeout("too long"))
    ids = setup.put([["1"], ["2", "bad"], ["3"]])

    setup.processor.deliver(ids)

    assert setup.read_states(ids) == [("pending", "")] * 3
    attempts = setup.store.read(select(deliveries.c.attempts).where(deliveries.c.id.in_(ids)))
    assert [row.attempts for row in attempts] == [0, 0, 0]
    # The next job writes each alone: only the slow one fails.
    setup.processor.deliver(ids)
    states = setup.read_states(ids)
    assert states[0] == ("settled", "")
    assert states[1][0] == "pending"
    sink.close()


def test_deliveries_of_a_worker_that_died_are_written_alone(setup: Setup, store_url: str) -> None:
    ids = setup.put([["1"], ["2"]])
    PendingDeliveries(setup.store).lease(ids, worker="dead", now=datetime.now(UTC), lease_s=0)

    with recorded_inserts() as inserts:
        setup.processor.deliver(ids)

    assert len(inserts) == 2
    assert setup.read_states(ids) == [("settled", "")] * 2
