"""The trace of a delivery reaches the worker, from the inbox and from the spool."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import uuid4

from redis import Redis
from sqlalchemy import update

from app.database.engine import Database
from app.store.inbox import Inbox
from app.store.models import Delivery, DeliveryState, IncomingDelivery
from app.store.pending import PendingDeliveries
from app.store.schema import deliveries
from app.truto.events import Envelope
from app.truto.signature import parse_signature_header, sign
from tests.support.redis_keys import open_spool
from tests.support.web_process import SECRET

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def make_delivery(body: bytes, traceparent: str = "") -> IncomingDelivery:
    envelope = Envelope(event="sync_job_run:record", event_id=body.decode())
    return IncomingDelivery(body, hashlib.sha256(body).digest(), NOW, envelope, traceparent=traceparent)


def lease_all(store: Database, incoming: list[IncomingDelivery]) -> dict[str, Delivery]:
    leased = PendingDeliveries(store).lease(
        [delivery.delivery_id for delivery in incoming], worker="worker", now=NOW, lease_s=40
    )
    return {delivery.envelope.event_id: delivery for delivery in leased}


def test_each_delivery_of_a_group_keeps_its_own_trace(store: Database) -> None:
    incoming = [make_delivery(b"traced", TRACEPARENT), make_delivery(b"not traced")]
    refused = replace(make_delivery(b"refused", TRACEPARENT), state=DeliveryState.REFUSED, reason="no")

    Inbox(store).put([*incoming, refused])

    leased = lease_all(store, incoming)
    assert {name: delivery.traceparent for name, delivery in leased.items()} == {
        "traced": TRACEPARENT,
        "not traced": "",
    }
    assert not any(delivery.is_replay for delivery in leased.values())


def test_a_repeated_delivery_keeps_the_trace_of_the_first(store: Database) -> None:
    inbox, first = Inbox(store), make_delivery(b"x", TRACEPARENT)
    inbox.put([first])

    [receipt] = inbox.put([replace(first, traceparent=TRACEPARENT.replace("4bf9", "ffff"))])

    assert receipt.is_duplicate
    assert lease_all(store, [first])["x"].traceparent == TRACEPARENT


def test_a_replayed_delivery_says_so(store: Database) -> None:
    incoming = make_delivery(b"x", TRACEPARENT)
    Inbox(store).put([incoming])
    with store.transaction() as connection:
        connection.execute(update(deliveries).values(replay_id=uuid4()))

    [leased] = lease_all(store, [incoming]).values()

    assert leased.is_replay
    assert leased.traceparent == TRACEPARENT


def test_a_spooled_delivery_keeps_its_trace_only_under_its_seal(redis: Redis, store: Database) -> None:
    spool = open_spool(redis, store)
    body = json.dumps(
        {"id": "e1", "event": "sync_job_run:record", "created_at": (NOW - timedelta(days=1)).isoformat()}
    ).encode()
    incoming = replace(make_delivery(body, TRACEPARENT), digest=parse_signature_header(sign(body, SECRET)))
    spool.put(incoming)
    [(_, fields)] = cast("list[tuple[bytes, dict[bytes, bytes]]]", redis.xrange(spool.key))
    forged = {**fields, b"header": fields[b"header"].replace(b"4bf9", b"ffff")}
    drained: list[str] = []

    spool.drain(lambda group: drained.extend(delivery.traceparent for delivery in group))
    redis.xadd(spool.key, forged)  # type: ignore[arg-type]  # redis-py's alias rejects bytes
    spool.drain(lambda group: drained.extend(delivery.traceparent for delivery in group))

    assert drained == [TRACEPARENT, ""]
