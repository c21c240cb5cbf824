"""Any order, repetition and crash of inbox, workers and sink ends the same."""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any, NamedTuple
from uuid import UUID

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from sqlalchemy import delete, select, text, update

from app.config.routes import Route, build_default_routes
from app.database.engine import Database
from app.errors import SinkUnavailable
from app.sinks.base import Batch, Sink, WriteResult
from app.sinks.registry import SinkRegistry
from app.store.inbox import Inbox
from app.store.models import IncomingDelivery
from app.store.pending import PendingDeliveries
from app.store.schema import deliveries, metadata, sink_outcomes
from app.truto.events import read_envelope
from tests.support.replaced_sink import ReplacedSink
from workers.delivery.processor import DeliveryProcessor

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TIMES = st.sampled_from([NOW, NOW + timedelta(microseconds=1), NOW + timedelta(seconds=1)])
IDS = st.sampled_from(["1", "2", "3"])
# created_at of an event, if it has one; received_at; its account.
About = tuple[datetime | None, datetime, str]
ABOUT = st.tuples(st.none() | TIMES, TIMES, st.sampled_from(["a1", "a2"]))
PAGES = st.lists(st.tuples(st.lists(IDS, max_size=4), ABOUT), min_size=1, max_size=4)
# Indexes of deliveries; unleased pending ones come first.
PLACE = st.integers(0, 11)
JOB = st.lists(PLACE, min_size=1, max_size=6)
# The number of the write in a job, and whether to stop after or before it.
STOP = st.tuples(st.integers(1, 2), st.booleans())
# Whether the write succeeds, or the sink is unavailable.
IS_AWAY = st.booleans()
# Only a deadlock takes this long.
HANGS_S = 30.0
# One short failing example is enough: every attempt runs many transactions.
SETTINGS = settings(
    max_examples=50,
    stateful_step_count=25,
    report_multiple_bugs=False,
    phases=set(Phase) - {Phase.explain},
)


# created_at, received_at, delivery, ordinal; the greatest wins.
Order = tuple[datetime, datetime, UUID, int]


class Version(NamedTuple):
    """A record that was sent, or its deletion."""

    order: Order
    key: tuple[str, str]
    record: dict[str, Any]
    is_deletion: bool


class Row(NamedTuple):
    """A row's two registers. data_order: None if the record is only the payload of the deletion."""

    order: Order
    data_order: Order | None
    record: dict[str, Any]
    is_deleted: bool

    def is_before(self, other: "Row") -> bool:
        """Whether a register is older than the other row's."""
        is_older_data = other.data_order is not None and (
            self.data_order is None or self.data_order < other.data_order
        )
        return self.order < other.order or is_older_data


class Vanished(BaseException):
    """Kills a worker in the middle of its job: no code of ours may catch it."""


@dataclass
class StoppingSink:
    """A real sink that stops its worker at one write, before or after it.

    is_away: then that write fails, though what is written stays; failed: the deliveries that had it.
    """

    sink: Sink
    stop: Callable[[], None]
    at: int
    is_after: bool
    is_away: bool = False
    failed: set[UUID] = field(default_factory=set)

    def write(self, batch: Batch, route: Route) -> WriteResult:
        self.at -= 1
        if self.at != 0:
            return self.sink.write(batch, route)
        if not self.is_after:
            self.stop()
        if self.is_after or not self.is_away:
            written = self.sink.write(batch, route)
        if self.is_after:
            self.stop()
        if self.is_away:
            self.failed.add(batch.delivery_id)
            raise SinkUnavailable("away")
        return written

    def count(self, account: str) -> int:
        return self.sink.count(account)

    def erase(self, account: str) -> int:
        return self.sink.erase(account)

    def close(self) -> None: ...


class AnyOrder(RuleBasedStateMachine):
    """A model of received, settled and leased deliveries, compared with the real system."""

    store: Database

    def __init__(self) -> None:
        super().__init__()
        self.routes = build_default_routes(self.store.engine.url.render_as_string(hide_password=False))
        self.inbox, self.sinks = Inbox(self.store), SinkRegistry(self.routes)
        self.threads = ThreadPoolExecutor(2)
        self.paused: list[tuple[set[UUID], Event, Future[None], set[UUID]]] = []
        self.workers = 0
        # The worker whose lease is the last one, also after it ran out: another worker settles nothing.
        self.owners: dict[UUID, Event] = {}
        self.came: dict[UUID, tuple[IncomingDelivery, int]] = {}
        self.versions: list[Version] = []
        self.last_rows: dict[tuple[str, str], Row] = {}
        self.settled: set[UUID] = set()
        self.leased: set[UUID] = set()

    @initialize()
    def nothing_came_but_an_empty_page(self) -> None:
        with self.store.engine.begin() as connection:
            for table in metadata.sorted_tables:
                connection.execute(delete(table))
            connection.execute(text("DROP VIEW IF EXISTS crm_contacts_live"))
            for name in ("crm_contacts", "rapidbridge_sink_tables", "rapidbridge_sink_views"):
                connection.execute(text(f"DROP TABLE IF EXISTS {name}"))
        self.receive([([], (NOW, NOW, "a1"))])
        self.deliver([0])

    @rule(pages=PAGES)
    def receive(self, pages: list[tuple[list[str], About]]) -> None:
        for ids, about in pages:
            self.put("sync_job_run:record", ids, *about)

    @rule(id_=IDS, about=ABOUT)
    def deletion(self, id_: str, about: About) -> None:
        self.put("record:deleted", [id_], *about)

    @rule(place=PLACE, received_at=TIMES)
    def receive_again(self, place: int, received_at: datetime) -> None:
        [id_] = self.job([place])
        [receipt] = self.inbox.put([replace(self.came[id_][0], received_at=received_at)])

        assert (receipt.delivery_id, receipt.is_duplicate) == (id_, True)

    @rule(places=JOB)
    def deliver(self, places: list[int]) -> None:
        self.deliver_these(self.job(places))

    @precondition(lambda self: self.free(self.came))
    @rule(places=JOB)
    def crash_after_claim(self, places: list[int]) -> None:
        ids = self.job(places)
        claimed = PendingDeliveries(self.store).lease(ids, worker="gone", now=datetime.now(UTC), lease_s=40)

        assert {delivery.id for delivery in claimed} == self.free(ids)
        self.lease(self.free(ids))

    @precondition(lambda self: self.free(self.came))
    @rule(places=JOB, stop=STOP)
    def crash_between_sink_and_settle(self, places: list[int], stop: tuple[int, bool]) -> None:
        def vanish() -> None:
            raise Vanished

        ids = self.job(places)
        try:
            self.deliver_these(ids, StoppingSink(self.sinks.open("main"), vanish, *stop))
        except Vanished:
            self.lease(self.free(ids))

    @precondition(lambda self: len(self.paused) < 2 and self.free(self.came))
    @rule(places=JOB, stop=STOP, is_away=IS_AWAY)
    def a_worker_stands_still(self, places: list[int], stop: tuple[int, bool], is_away: bool) -> None:
        stands_or_ended, may_go_on = Event(), Event()

        def stand() -> None:
            stands_or_ended.set()
            if not may_go_on.wait(HANGS_S):
                raise Vanished

        ids = self.job(places)
        sink = StoppingSink(self.sinks.open("main"), stand, *stop, is_away)
        job = self.threads.submit(self.worker(sink).deliver, ids)
        job.add_done_callback(lambda _: stands_or_ended.set())
        assert stands_or_ended.wait(HANGS_S)
        self.paused.append((self.free(ids), may_go_on, job, sink.failed))
        self.lease(self.free(ids), may_go_on)
        if job.done():
            self.it_goes_on(-1)

    @precondition(lambda self: self.paused)
    @rule(which=st.sampled_from([0, -1]))
    def it_goes_on(self, which: int) -> None:
        claimed, may_go_on, job, failed = self.paused.pop(which)
        may_go_on.set()
        job.result(HANGS_S)
        owned = {id_ for id_ in claimed if self.owners.get(id_) is may_go_on}
        self.settled |= owned - failed
        # A failed delivery is leased until its next attempt.
        self.leased = (self.leased - owned) | (owned & failed)

    @precondition(lambda self: self.paused)
    @rule(which=st.sampled_from([0, -1]), places=JOB)
    def it_is_overtaken(self, which: int, places: list[int]) -> None:
        self.leases_run_out()
        self.deliver_these([*self.job(places), *self.paused[which][0]])

    @rule()
    def leases_run_out(self) -> None:
        past = datetime.now(UTC) - timedelta(seconds=1)
        leased = update(deliveries).where(deliveries.c.leased_until.is_not(None))
        with self.store.engine.begin() as connection:
            # Never lost so often that it becomes dead: another test covers that.
            connection.execute(leased.values(leased_until=past, due_at=past, lost_attempts=0))
        self.leased.clear()

    @precondition(lambda self: self.settled)
    @rule(place=PLACE, is_forgotten=st.booleans())
    def replay(self, place: int, is_forgotten: bool) -> None:
        ids = [id_ for id_ in self.came if id_ in self.settled]
        id_ = ids[place % len(ids)]
        again = update(deliveries).where(deliveries.c.id == id_)
        with self.store.engine.begin() as connection:
            connection.execute(again.values(state="pending", settled_at=None, leased_until=None))
            if is_forgotten:
                connection.execute(delete(sink_outcomes).where(sink_outcomes.c.delivery_id == id_))
        self.settled.remove(id_)

    @invariant()
    def what_is_settled_is_in_the_sink_and_nothing_goes_back(self) -> None:
        rows = self.rows()
        assert not any(rows[key].is_before(before) for key, before in self.last_rows.items())
        assert not any(rows[key].is_before(last) for key, last in self.newest(self.settled).items())
        self.last_rows = rows

    @invariant()
    def the_ledger_has_it_once(self) -> None:
        counts = (
            sink_outcomes.c.delivery_id,
            sink_outcomes.c.sink,
            sink_outcomes.c.state,
            sink_outcomes.c.written,
        )
        with self.store.engine.connect() as connection:
            states = {row.id: row.state for row in connection.execute(select(deliveries))}
            found = [tuple(row) for row in connection.execute(select(*counts))]
        assert states == {id_: "settled" if id_ in self.settled else "pending" for id_ in self.came}
        expected = [(id_, "main", "done", self.came[id_][1]) for id_ in self.settled]
        assert sorted(row for row in found if row[0] in self.settled) == sorted(expected)

    def teardown(self) -> None:
        try:
            while self.paused:
                self.it_goes_on(0)
            self.leases_run_out()
            self.deliver_these(self.came)
            self.the_ledger_has_it_once()
            assert self.rows() == self.newest(self.came)
        finally:
            for _, may_go_on, _, _ in self.paused:
                may_go_on.set()
            self.threads.shutdown()
            self.sinks.close()

    def put(
        self, event: str, ids: Sequence[str], at: datetime | None, received_at: datetime, account: str
    ) -> None:
        """Receive a body as Truto sends it; every record contains its version."""
        records = [{"id": id_, "n": n} for n, id_ in enumerate(ids, start=len(self.versions))]
        is_deletion = event == "record:deleted"
        fields = {"record": records[0]} if is_deletion else {"sync_job_run_id": "r", "records": records}
        payload = {"resource": "crm/contacts", "integrated_account_id": account, **fields}
        about = {"id": f"e{len(self.came)}", "event": event, "created_at": at and at.isoformat()}
        body = json.dumps(about | {"payload": payload}).encode()
        incoming = IncomingDelivery(body, hashlib.sha256(body).digest(), received_at, read_envelope(body))
        id_ = self.inbox.put([incoming])[0].delivery_id
        self.came[id_] = incoming, len(records)
        for place, record in enumerate(records):
            order = (at or received_at, received_at, id_, place)
            self.versions.append(Version(order, (account, ids[place]), record, is_deletion))

    def job(self, places: Sequence[int]) -> list[UUID]:
        ids = sorted(self.came, key=lambda id_: id_ in self.settled | self.leased)
        return [ids[place % len(ids)] for place in places]

    def lease(self, ids: set[UUID], worker: Event | None = None) -> None:
        """Record that a worker has the deliveries; None for one that is gone."""
        self.leased |= ids
        self.owners |= dict.fromkeys(ids, worker or Event())

    def free(self, ids: Collection[UUID]) -> set[UUID]:
        return set(ids) - self.settled - self.leased

    def worker(self, sink: Sink) -> DeliveryProcessor:
        self.workers += 1
        sinks = ReplacedSink(self.routes, "main", sink)
        return DeliveryProcessor(self.store, self.routes, sinks, name=f"worker-{self.workers}")

    def deliver_these(self, ids: Collection[UUID], sink: Sink | None = None) -> None:
        self.worker(sink or self.sinks.open("main")).deliver(list(ids))
        written = self.free(ids)
        self.settled |= written
        self.owners = {id_: worker for id_, worker in self.owners.items() if id_ not in written}

    def rows(self) -> dict[tuple[str, str], Row]:
        """Return the rows in the sink."""
        names = '"_account", "_key", data, "_vseq", "_data_vseq", "_deleted_at"'
        with self.store.engine.connect() as connection:
            found = connection.execute(text(f"SELECT {names} FROM crm_contacts")).all()
        rows = {}
        for account, key, cell, sequence, data_sequence, deleted_at in found:
            record = json.loads(cell) if isinstance(cell, str) else cell
            version = self.version(sequence)
            data = self.version(data_sequence) if data_sequence else version
            assert (data.key, data.record) == (version.key, record) == ((account, key), record)
            assert version.is_deletion == (deleted_at is not None)
            assert data_sequence is None or version.is_deletion > data.is_deletion
            has_data = not data.is_deletion
            rows[version.key] = Row(
                version.order, data.order if has_data else None, record, version.is_deletion
            )
        assert len(rows) == len(found)
        return rows

    def version(self, sequence: str) -> Version:
        """Return the version with a `_vseq`."""
        _, delivery, ordinal = sequence.split("-")
        [version] = (v for v in self.versions if v.order[2:] == (UUID(delivery), int(ordinal)))
        return version

    def newest(self, ids: Collection[UUID]) -> dict[tuple[str, str], Row]:
        """Return the rows that these deliveries should lead to."""
        versions = sorted(version for version in self.versions if version.order[2] in ids)
        data = {version.key: version for version in versions if not version.is_deletion}
        rows = {}
        for version in versions:
            last = data.get(version.key)
            record = last.record if last else version.record
            rows[version.key] = Row(version.order, last.order if last else None, record, version.is_deletion)
        return rows


def test_any_order_of_pages_workers_and_crashes_ends_with_the_newest_of_each_record(store: Database) -> None:
    machine = type("AnyOrderHere", (AnyOrder,), {"store": store})

    run_machine(machine, settings=SETTINGS)
