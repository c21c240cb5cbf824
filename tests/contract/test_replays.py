"""Replays leave the sinks as one delivery does, on every database."""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update

from app.config.routes import Route, Routes
from app.config.sinks import SinkConfig, SqlSinkConfig
from app.database.engine import Database
from app.sinks.registry import SinkRegistry
from app.store.delivery_filter import DeliveryFilter
from app.store.inbox import Inbox
from app.store.models import DeliveryState, IncomingDelivery
from app.store.pending import PendingDeliveries
from app.store.replays import Replay, ReplayOutcome, Replays
from app.store.schema import dead_records, deliveries, sink_outcomes
from app.truto.events import read_envelope
from tests.support.replays import begin_replay
from workers.delivery.processor import DeliveryProcessor

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
TO_MAIN = (Route(sinks=("main",)),)
Row = tuple[Any, ...]


@pytest.fixture
def replays(store: Database) -> Replays:
    return Replays(store)


@pytest.fixture
def deliver(store: Database, store_url: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """Return a function that delivers all pending deliveries by these routes."""
    sinks: dict[str, SinkConfig] = {"main": SqlSinkConfig(type="sql", url=store_url)}
    folder = tmp_path_factory.mktemp("lake")
    sinks["lake"] = SqlSinkConfig(type="sql", url=f"sqlite:///{folder}/lake.db")

    def deliver_all(routes: Sequence[Route] = TO_MAIN) -> None:
        rules = Routes(sinks=sinks, routes=tuple(routes))
        opened = SinkRegistry(rules)
        with store.engine.connect() as connection:
            ids = list(
                connection.execute(select(deliveries.c.id).where(deliveries.c.state == "pending")).scalars()
            )
        DeliveryProcessor(store, rules, opened).deliver(ids)
        opened.close()

    return deliver_all


def put(store: Database, number: int, *records: str, resource: str = "crm/contacts") -> UUID:
    about = {"event": "sync_job_run:record", "id": f"e{number}", "created_at": "2026-11-24T10:00:00Z"}
    what = {"sync_job_run_id": "r", "integrated_account_id": "a", "resource": resource, "method": "list"}
    payload = json.dumps(what)[:-1] + f', "records": [{", ".join(records)}]}}'
    return put_body(store, number, f'{json.dumps(about)[:-1]}, "payload": {payload}}}'.encode())


def put_body(store: Database, number: int, body: bytes) -> UUID:
    received_at = NOW + timedelta(seconds=number)
    incoming = IncomingDelivery(body, hashlib.sha256(body).digest(), received_at, read_envelope(body))
    return Inbox(store).put([incoming])[0].delivery_id


def record(id_: object) -> str:
    return json.dumps({"id": str(id_), "name": f"name of {id_}"})


def replay_all(
    replays: Replays, selection: DeliveryFilter | None = None, *, sink: str = "", replay: Replay | None = None
) -> Replay:
    replay = replay or begin_replay(replays._database, now=datetime.now(UTC))
    chosen = selection or DeliveryFilter()
    while candidates := replays.find_candidates(chosen, after=replay.cursor, limit=3):
        taken = replays.requeue(replay, candidates, sink=sink, now=datetime.now(UTC))
        replay = taken or replays.refresh(replay)
    return replay


def rows(store: Database, table: str) -> list[Row]:
    with store.engine.connect() as connection:
        found = connection.execute(text(f'SELECT "_key", "data", "_version", "_vseq" FROM {table}'))
        return sorted((key, str(data), str(version), vseq) for key, data, version, vseq in found)


def states(store: Database) -> dict[str, int]:
    statement = select(deliveries.c.state, func.count()).group_by(deliveries.c.state)
    with store.engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(statement)}


def dead(store: Database) -> list[tuple[str, int]]:
    with store.engine.connect() as connection:
        found = connection.execute(select(dead_records.c.sink, dead_records.c.ordinal))
        return sorted((row.sink, row.ordinal) for row in found)


def finished(store: Database) -> dict[str, int]:
    statement = select(sink_outcomes.c.sink, func.count()).where(sink_outcomes.c.state == "done")
    with store.engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(statement.group_by(sink_outcomes.c.sink))}


def test_a_replay_does_not_change_any_row(
    store: Database, replays: Replays, deliver: Callable[..., None]
) -> None:
    for number in range(10):
        # Every page repeats one record of the page before, newer only by its time of receipt.
        put(store, number, record(number), record(number + 1))
    deliver()
    before = rows(store, "crm_contacts")

    replay = replay_all(replays)
    assert states(store) == {"pending": 10}
    assert replays.count_pending(replay) == 10
    assert PendingDeliveries(store).find_oldest_received_at() is None
    deliver()

    assert rows(store, "crm_contacts") == before
    assert len(before) == 11
    assert states(store) == {"settled": 10}
    assert replays.count_pending(replay) == 0
    assert replays.refresh(replay) == replay
    assert replays.outcomes(replay.id) == [ReplayOutcome("settled", False, 10)]


def test_a_replay_into_one_sink_does_not_write_the_others(
    store: Database, replays: Replays, deliver: Callable[..., None]
) -> None:
    put(store, 0, record(0), "{broken}")
    put(store, 1, record(1))
    deliver()
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM crm_contacts"))

    replay_all(replays, sink="lake")
    assert finished(store) == {"main": 2}
    deliver([Route(sinks=("main", "lake"))])

    assert finished(store) == {"main": 2, "lake": 2}
    assert rows(store, "crm_contacts") == []
    assert dead(store) == [("", 1)]
    assert states(store) == {"settled": 2}


def test_dead_deliveries_are_written_after_their_route_is_fixed(
    store: Database, replays: Replays, deliver: Callable[..., None]
) -> None:
    put(store, 0, record(0), '"no object"')
    put(store, 1, record(1), resource="ticketing/tickets")
    deliver([Route(resource="crm/*", sinks=("main",))])
    assert states(store) == {"settled": 1, "unrouted": 1}
    assert dead(store) == [("main", 1)]

    replay_all(replays)
    assert dead(store) == []
    deliver([Route(sinks=("main",), on_non_object="wrap")])

    assert states(store) == {"settled": 2}
    assert dead(store) == []
    assert [len(rows(store, table)) for table in ("crm_contacts", "ticketing_tickets")] == [2, 1]


def test_unreadable_deliveries_stay_quarantined_and_readable_ones_are_delivered(
    store: Database, replays: Replays, deliver: Callable[..., None]
) -> None:
    readable = put(store, 0, record(0))
    body = b"not json"
    quarantined = IncomingDelivery(
        body,
        hashlib.sha256(body).digest(),
        NOW + timedelta(seconds=1),
        state=DeliveryState.QUARANTINED,
        reason="not_json",
    )
    Inbox(store).put([quarantined])
    with store.engine.begin() as connection:
        # As an earlier release, which could not read this body, would have stored it.
        unread = {"state": "quarantined", "event": "", "resource": "", "method": "", "settled_at": NOW}
        connection.execute(update(deliveries).where(deliveries.c.id == readable).values(unread))

    replay = replay_all(replays, DeliveryFilter(states=["quarantined"]))
    deliver()

    assert states(store) == {"quarantined": 1, "settled": 1}
    assert replay.requeued_deliveries == 2
    assert replays.outcomes(replay.id) == [
        ReplayOutcome("quarantined", True, 1),
        ReplayOutcome("settled", False, 1),
    ]
    assert [key for key, *_ in rows(store, "crm_contacts")] == ["0"]


def test_an_interrupted_replay_resumes_at_its_cursor(
    store: Database, replays: Replays, deliver: Callable[..., None]
) -> None:
    for number in range(7):
        put(store, number, record(number))
    deliver()
    begun = begin_replay(store, '{"resource": "crm/*"}', now=NOW)
    assert replays.requeue(
        begun, replays.find_candidates(DeliveryFilter(), after=None, limit=4), sink="", now=datetime.now(UTC)
    )

    assert replays.find_unfinished("{}") is None
    resumed = replays.find_unfinished('{"resource": "crm/*"}')
    assert resumed is not None
    assert (resumed.id, resumed.requeued_deliveries, resumed.started_at) == (begun.id, 4, NOW)
    remaining = replays.preview(DeliveryFilter(), after=resumed.cursor)
    assert [(item.state, item.deliveries) for item in remaining] == [("settled", 3)]
    ended = replay_all(replays, replay=resumed)

    assert ended.requeued_deliveries == 7


def test_two_processes_share_one_replay(
    store: Database, replays: Replays, deliver: Callable[..., None]
) -> None:
    for number in range(40):
        put(store, number, record(number))
    deliver()
    before = rows(store, "crm_contacts")
    begun = begin_replay(store, now=NOW)

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda _: replay_all(replays, replay=begun), range(2)))
    deliver()

    assert {replays.refresh(item).requeued_deliveries for item in ended} == {40}
    assert states(store) == {"settled": 40}
    assert rows(store, "crm_contacts") == before


def test_concurrent_replays_of_the_same_deliveries_change_no_row(
    store: Database, replays: Replays, deliver: Callable[..., None]
) -> None:
    for number in range(40):
        put(store, number, record(number))
    deliver()
    before = rows(store, "crm_contacts")

    with ThreadPoolExecutor(3) as pool:
        playing = [pool.submit(replay_all, replays) for _ in range(2)]
        while not all(item.done() for item in playing):
            deliver()
        for item in playing:
            item.result()
    deliver()

    assert states(store) == {"settled": 40}
    assert rows(store, "crm_contacts") == before


def test_pending_and_pruned_deliveries_are_not_replayed(
    store: Database, replays: Replays, deliver: Callable[..., None]
) -> None:
    pruned, settled = put(store, 0, record(0)), put(store, 1, record(1))
    deliver()
    pending = put(store, 2, record(2))
    with store.engine.begin() as connection:
        connection.execute(
            update(deliveries).where(deliveries.c.id == pruned).values(pruned_at=NOW, body=b"")
        )

    prospects = replays.preview(DeliveryFilter(), after=None)
    replay = replay_all(replays)

    assert [(item.state, item.is_pruned, item.deliveries) for item in prospects] == [
        ("pending", False, 1),
        ("settled", False, 1),
        ("settled", True, 1),
    ]
    with store.engine.connect() as connection:
        found = connection.execute(
            select(deliveries.c.id, deliveries.c.state).where(deliveries.c.replay_id == replay.id)
        ).all()
        attempts = connection.execute(
            select(deliveries.c.attempts).where(deliveries.c.id == pending)
        ).scalar_one()
    assert [tuple(row) for row in found] == [(settled, "pending")]
    assert attempts == 0


def test_an_incoming_delivery_may_have_its_id(store: Database) -> None:
    first = put(store, 0, record(0))
    body = Inbox(store).read_body(first)
    named = UUID(int=first.int ^ 1)
    incoming = IncomingDelivery(body, b"", NOW, id=named)

    receipts = [Inbox(store).put([item])[0] for item in (incoming, incoming, replace(incoming, id=first))]

    assert [(item.delivery_id, item.is_duplicate) for item in receipts] == [
        (named, False),
        (named, True),
        (first, True),
    ]
