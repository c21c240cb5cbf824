"""Live deliveries come before replayed ones, and hardly wait for them."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from redis import Redis
from sqlalchemy import select, update

from app.database.engine import Database
from app.redis.queue import IDS_PER_JOB, MAX_JOBS
from app.store.inbox import Inbox
from app.store.models import DeliveryPriority, IncomingDelivery
from app.store.pending import PendingDeliveries
from app.store.requeue import mark_pending
from app.store.schema import deliveries
from app.truto.events import read_envelope
from app.web.enqueuer import NewDelivery
from tests.support.due import lease_due
from tests.support.processes import Command
from tests.support.redis_keys import open_queue
from tests.support.replays import begin_replay
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment
from workers.background import feeder as feeder_module
from workers.background.feeder import Feeder

REPLAYED = 1500


def put(store: Database, numbers: range, *, name: str) -> list[UUID]:
    incoming = []
    for number in numbers:
        payload = {"integrated_account_id": "a", "resource": "crm/contacts", "method": "list"}
        records = [{"id": f"{name} {number}"}]
        event = {
            "event": "sync_job_run:record",
            "id": f"{name} {number}",
            "created_at": "2026-11-24T10:00:00Z",
        }
        body = json.dumps({**event, "payload": {**payload, "records": records}}).encode()
        digest = hashlib.sha256(body).digest()
        incoming.append(IncomingDelivery(body, digest, datetime.now(UTC), read_envelope(body)))
    return [receipt.delivery_id for receipt in Inbox(store).put(incoming)]


def put_replayed(store: Database, count: int) -> list[UUID]:
    """Put deliveries that a replay has requeued."""
    ids = put(store, range(count), name="replayed")
    now = datetime.now(UTC)
    replay = begin_replay(store, now=now)
    with store.transaction() as connection:
        # Settled before, so that they are old.
        connection.execute(update(deliveries).values(state="settled", settled_at=now))
        for start in range(0, count, 500):
            mark_pending(connection, ids[start : start + 500], replay_id=replay.id, now=now)
    return ids


def read_pending(store: Database) -> list[tuple[UUID, int]]:
    statement = select(deliveries.c.id, deliveries.c.priority).where(deliveries.c.state == "pending")
    return [tuple(row) for row in store.read(statement)]


def read_settled_at(store: Database) -> dict[UUID, datetime]:
    rows = store.read(select(deliveries.c.id, deliveries.c.settled_at))
    return dict(tuple(row) for row in rows)


def test_live_and_replayed_deliveries_are_leased_apart_in_order(store: Database) -> None:
    replayed, live = put_replayed(store, 5), put(store, range(3), name="live")
    now = datetime.now(UTC) + timedelta(minutes=1)

    def lease(priority: DeliveryPriority, limit: int) -> list[UUID]:
        due = lease_due(store, now=now, limit=limit, requeue_after_s=60, priority=priority)
        return [delivery.id for delivery in due]

    replay, web = DeliveryPriority.REPLAYED, DeliveryPriority.LIVE
    leased = [lease(replay, 2), lease(web, 9), lease(replay, 9), lease(web, 9)]

    assert [len(ids) for ids in leased] == [2, 3, 3, 0]
    assert leased[1] == live
    assert {*leased[0], *leased[2]} == {*replayed}


def test_a_lost_queue_makes_deliveries_of_every_priority_due_again(store: Database) -> None:
    put_replayed(store, 2)
    put(store, range(2), name="live")
    pending = PendingDeliveries(store)
    now = datetime.now(UTC) + timedelta(minutes=1)
    for priority in DeliveryPriority:
        lease_due(store, now=now, limit=9, requeue_after_s=600, priority=priority)

    assert pending.make_all_due(now=now) == 4


def test_a_replay_has_one_job_in_the_queue_and_a_backlog_two(store: Database, redis: Redis) -> None:
    put_replayed(store, 200)
    queue = open_queue(redis, store)
    feeder = Feeder(store, queue)

    lengths = []
    for _ in range(3):
        feeder.run_once()
        lengths.append(queue.count_queued())
    put(store, range(200), name="live")
    store.execute(update(deliveries).where(deliveries.c.replay_id.is_(None)).values(due_at=datetime.now(UTC)))
    queue.report_unqueued()
    for _ in range(3):
        feeder.run_once()
        lengths.append(queue.count_queued())

    # Without a worker, as with one.
    assert lengths == [1, 1, 1, 2, 2, 2]


def test_a_replay_has_a_small_share_however_many_live_jobs_wait(
    store: Database, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed = put_replayed(store, 3 * IDS_PER_JOB)
    queue = open_queue(redis, store)
    feeder = Feeder(store, queue)
    for live in put(store, range(MAX_JOBS - 2), name="live"):
        queue.enqueue([NewDelivery(live)])

    feeder.run_once()
    assert queue.count_queued() == MAX_JOBS - 2
    monkeypatch.setattr(feeder_module, "_REPLAY_INTERVAL_S", 0.0)
    feeder.run_once()
    assert queue.count_queued() == MAX_JOBS - 1
    monkeypatch.setattr(feeder_module, "_REPLAY_INTERVAL_S", 30.0)
    feeder.run_once()
    assert queue.count_queued() == MAX_JOBS - 1

    # Workers that drain nothing do not let the queue grow for ever.
    monkeypatch.setattr(feeder_module, "_REPLAY_INTERVAL_S", 0.0)
    for _ in range(3):
        feeder.run_once()
    assert queue.count_queued() == MAX_JOBS
    due = lease_due(store, now=datetime.now(UTC), limit=999, priority=DeliveryPriority.REPLAYED)
    assert len(due) == IDS_PER_JOB
    assert {delivery.id for delivery in due} < {*replayed}


def test_a_live_delivery_waits_for_few_jobs_of_a_replay(
    store: Database, store_url: str, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    ids = put_replayed(store, REPLAYED)
    queue = open_queue(redis, store)
    settings = make_environment(DATABASE_URL=store_url, REDIS_URL=redis_url)
    lengths: list[int] = []
    enqueued_at: dict[UUID, datetime] = {}

    with Command(["app.cli", "worker", "-n", "1"], folder=tmp_path, environment=settings) as worker:
        wait_until(lambda: len(read_pending(store)) < REPLAYED, timeout_s=60, what=lambda: worker.log)
        for number in range(5):
            # As the web process does.
            [live] = put(store, range(number, number + 1), name="live")
            lengths.append(queue.count_queued())
            queue.enqueue([NewDelivery(live)])
            enqueued_at[live] = datetime.now(UTC)

            def is_settled(live: UUID = live) -> bool:
                return live not in dict(read_pending(store))

            wait_until(is_settled, timeout_s=30, what=lambda: worker.log)
        wait_until(lambda: not read_pending(store), timeout_s=120, what=lambda: worker.log)

    settled_at = read_settled_at(store)
    replayed_at = [settled_at[id_] for id_ in ids]
    # By the worker's clock: this process may be too slow to see the replay in progress.
    waited_for = [
        sum(at <= each < settled_at[live] for each in replayed_at) for live, at in enqueued_at.items()
    ]
    # A job in progress and one in the queue.
    assert max(waited_for) <= 2 * IDS_PER_JOB
    assert max(replayed_at) > min(settled_at[live] for live in enqueued_at)
    assert max(lengths) <= 1
    statement = select(deliveries.c.state).where(deliveries.c.id.in_(ids), deliveries.c.state != "settled")
    assert store.read(statement) == []
