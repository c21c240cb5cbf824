"""The stored format of the spool: entries of earlier releases stay readable."""

import hashlib
import json
from datetime import UTC, datetime
from typing import cast

from redis import Redis

from app.redis.spool import Spool
from app.store.compression import compress
from app.store.models import DeliveryState, IncomingDelivery
from app.truto.events import Envelope

NAMESPACE = "test"
KEY = "rapidbridge:test:spool"
AT = datetime(2026, 11, 24, 10, tzinfo=UTC)
BODY = b'{"event": "sync_job_run:record"}'
# The member names are fixed: an entry may outlive the release that wrote it.
HEADER = {
    "digest": "ab" * 32,
    "received_at": AT.isoformat(),
    "state": "pending",
    "reason": "",
    "event_id": "e",
    "event": "sync_job_run:record",
    "webhook_id": "w",
    "environment_id": "v",
    "sync_job_id": "j",
    "sync_job_run_id": "r",
    "integrated_account_id": "a",
    "resource": "crm/contacts",
    "method": "list",
    "created_at": AT.isoformat(),
}
DELIVERY = IncomingDelivery(
    BODY,
    bytes.fromhex("ab" * 32),
    AT,
    Envelope(
        event_id="e",
        event="sync_job_run:record",
        created_at=AT,
        webhook_id="w",
        environment_id="v",
        sync_job_run_id="r",
        sync_job_id="j",
        integrated_account_id="a",
        resource="crm/contacts",
        method="list",
    ),
    DeliveryState.PENDING,
)


def drain(redis: Redis, header: dict[str, str]) -> list[IncomingDelivery]:
    redis.delete(KEY)
    redis.xadd(KEY, {"header": json.dumps(header), "body": compress([BODY])[0]})
    drained: list[IncomingDelivery] = []
    Spool(redis, NAMESPACE).drain(drained.extend)
    return drained


def test_a_spooled_delivery_is_written_with_fixed_member_names(redis: Redis) -> None:
    redis.delete(KEY)
    Spool(redis, NAMESPACE).put(DELIVERY)

    [(_, entry)] = cast("list[tuple[bytes, dict[bytes, bytes]]]", redis.xrange(KEY))

    assert json.loads(entry[b"header"]) == HEADER


def test_an_entry_of_the_same_format_is_read_back_unchanged(redis: Redis) -> None:
    assert drain(redis, HEADER) == [DELIVERY]


def test_an_entry_without_newer_members_and_with_unknown_ones_is_read(redis: Redis) -> None:
    header = {"received_at": AT.isoformat(), "state": "quarantined", "reason": "not_json", "later": "x"}

    [delivery] = drain(redis, header)

    assert delivery.digest == hashlib.sha256(BODY).digest()
    assert (delivery.state, delivery.reason) == ("quarantined", "not_json")
    assert delivery.envelope == Envelope()
