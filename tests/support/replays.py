"""Replays and discards without a command or a worker."""

from datetime import datetime
from uuid import uuid4

from app.database.engine import Database
from app.replay.executor import OperationExecutor
from app.replay.operations import start_discard
from app.store.delivery_filter import DeliveryFilter
from app.store.operations import Operation, Operations, Requester
from app.store.replays import Replay, save_replay

BY_TEST = Requester("a test")


def begin_replay(database: Database, request: str = "{}", *, now: datetime, config: str = "") -> Replay:
    """Insert a replay without an operation, as earlier releases did."""
    replay = Replay(uuid4(), now)
    with database.transaction() as connection:
        save_replay(connection, replay, request, config=config, now=now)
    return replay


def execute(database: Database, operation: Operation) -> Operation:
    """Carry out an operation until it ends or waits for workers; return it as it is then."""
    executor = OperationExecutor(database, owner="a test")
    while executor.run_slice(operation.id):
        continue
    executor.release(operation.id)
    ended = Operations(database).get(operation.id)
    assert ended
    return ended


def discard_all(database: Database, delivery_filter: DeliveryFilter, *, reason: str, now: datetime) -> int:
    """Discard failed deliveries; return their number."""
    operation = start_discard(database, delivery_filter, because=reason, requester=BY_TEST, now=now)
    return execute(database, operation).done
