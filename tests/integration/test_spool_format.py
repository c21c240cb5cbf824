"""The stored format of the spool, and the entries that no receiver has written."""

import hashlib
import json
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from redis import Redis
from structlog.testing import capture_logs

from app.config.settings import read_settings
from app.errors import SecretMissing
from app.redis.spool import Spool
from app.store.compression import compress
from app.store.models import DeliveryState, IncomingDelivery
from app.truto.events import read_envelope
from app.truto.signature import parse_signature_header, sign

NAMESPACE = "test"
KEY = "rapidbridge:test:spool"
SECRET, OLD_SECRET = "s" * 36, "o" * 36
AT = datetime(2026, 11, 24, 10, tzinfo=UTC)
IDS = {"sync_job_id": "j", "sync_job_run_id": "r", "integrated_account_id": "a"}


def make_body(event: str = "sync_job_run:record", **members: object) -> bytes:
    payload = {**IDS, "resource": "crm/contacts", "method": "list"}
    about = {"id": "e", "event": event, "webhook_id": "w", "environment_id": "v"}
    return json.dumps({**about, "created_at": AT.isoformat(), **members, "payload": payload}).encode()


def compute_mac(body: bytes, secret: str = SECRET) -> bytes:
    return parse_signature_header(sign(body, secret))


def make_delivery(body: bytes, secret: str = SECRET, **members: Any) -> IncomingDelivery:
    return IncomingDelivery(
        body, compute_mac(body, secret), **{"received_at": AT, "envelope": read_envelope(body), **members}
    )


def open_spool(redis: Redis, secret: str = SECRET, **settings: str) -> Spool:
    return Spool(redis, NAMESPACE, read_settings({"TRUTO_WEBHOOK_SECRET": secret, **settings}))


BODY = make_body()
DELIVERY = make_delivery(BODY)
# The member names are fixed: an entry may outlive the release that wrote it.
HEADER = {
    "digest": compute_mac(BODY).hex(),
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


def drain(spool: Spool) -> list[IncomingDelivery]:
    drained: list[IncomingDelivery] = []
    spool.drain(drained.extend)
    return drained


def add(redis: Redis, header: object, body: bytes = BODY) -> None:
    redis.xadd(KEY, {"header": json.dumps(header), "body": compress([body])[0]})


def read_entry(redis: Redis) -> dict[bytes, bytes]:
    [(_, entry)] = cast("list[tuple[bytes, dict[bytes, bytes]]]", redis.xrange(KEY))
    return entry


def test_a_spooled_delivery_is_written_with_fixed_member_names(redis: Redis) -> None:
    open_spool(redis).put(DELIVERY)

    assert json.loads(read_entry(redis)[b"header"]) == HEADER


def test_an_entry_of_an_earlier_release_is_read_back_unchanged(redis: Redis) -> None:
    add(redis, {**HEADER, "later": "x"})

    assert drain(open_spool(redis)) == [DELIVERY]


@pytest.mark.parametrize(
    ("body", "members"),
    [
        (make_body("sync_job_run:started"), {"state": DeliveryState.REFUSED, "reason": "a sandbox"}),
        (BODY, {"received_at": AT - timedelta(days=3)}),
        (make_body(id="\U0001f600" * 4000, event="test"), {}),
    ],
)
def test_a_refusal_and_a_time_are_kept(redis: Redis, body: bytes, members: dict[str, Any]) -> None:
    delivery = make_delivery(body, **members)
    open_spool(redis).put(delivery)

    assert drain(open_spool(redis)) == [delivery]


def test_an_unreadable_body_is_quarantined_after_the_spool_as_before(redis: Redis) -> None:
    body = b"no JSON"
    delivery = IncomingDelivery(
        body, compute_mac(body), AT, state=DeliveryState.QUARANTINED, reason="not_json"
    )
    open_spool(redis).put(delivery)

    assert drain(open_spool(redis)) == [delivery]


@pytest.mark.parametrize(
    "changes",
    [
        {"event_id": 5, "integrated_account_id": "another", "resource": "another", "event": None},
        {"state": "refused", "reason": "not wanted"},
        {"state": "settled"},
        {"created_at": "9999-12-31T00:00:00+00:00"},
    ],
)
def test_a_header_changed_in_redis_changes_nothing(redis: Redis, changes: dict[str, object]) -> None:
    add(redis, {**HEADER, **changes})
    open_spool(redis).put(DELIVERY)
    [_, sealed] = [entry for _, entry in cast("Sequence[Any]", redis.xrange(KEY))]
    redis.xadd(KEY, {**sealed, b"header": json.dumps({**HEADER, **changes})})

    assert drain(open_spool(redis)) == [DELIVERY] * 3


@pytest.mark.parametrize(
    "received_at", [None, 5, "", "soon", "9999-12-31T00:00:00+00:00", "0001-01-01T00:00:00+00:00"]
)
def test_a_time_changed_in_redis_stays_between_the_event_and_now(redis: Redis, received_at: object) -> None:
    add(redis, {**HEADER, "received_at": received_at})

    [delivery] = drain(open_spool(redis))

    assert AT <= delivery.received_at <= datetime.now(UTC)


@pytest.mark.parametrize(
    "header",
    [
        {**HEADER, "digest": "ab" * 32},
        {**HEADER, "digest": hashlib.sha256(BODY).hexdigest()},
        {**HEADER, "digest": compute_mac(BODY, OLD_SECRET).hex()},
        {**HEADER, "digest": "no hex"},
        {**HEADER, "digest": 5},
        {"received_at": AT.isoformat(), "state": "pending"},
        ["a list"],
        "a text",
        None,
        {**HEADER, "reason": "x" * 200_000},
    ],
)
def test_an_entry_that_truto_did_not_sign_is_set_aside(redis: Redis, header: object) -> None:
    add(redis, header)
    spool = open_spool(redis)
    spool.put(DELIVERY)

    assert drain(spool) == [DELIVERY]
    assert (spool.count(), spool.count_unreadable()) == (0, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"header": b"[" * 50_000, "body": b"x"},
        {"header": b"\xff\xfe", "body": b"x"},
        {"header": json.dumps(HEADER), "body": b"neither zstd nor zlib"},
        {"header": json.dumps(HEADER), "body": compress([BODY])[0][:-9]},
        {"header": json.dumps(HEADER)},
        {"another": "release's"},
    ],
)
def test_a_damaged_entry_blocks_no_other(redis: Redis, fields: dict[Any, Any]) -> None:
    redis.xadd(KEY, fields)
    spool = open_spool(redis)
    spool.put(DELIVERY)

    assert drain(spool) == [DELIVERY]
    assert (spool.count(), spool.count_unreadable()) == (0, 1)


@pytest.mark.parametrize("compression", ["zstd", "zlib"])
def test_a_small_entry_of_a_huge_body_is_not_decompressed(redis: Redis, compression: str) -> None:
    huge = b" " * 40_000_000
    bomb = compress([huge])[0] if compression == "zstd" else zlib.compress(huge)
    redis.xadd(KEY, {"header": json.dumps({**HEADER, "digest": compute_mac(huge).hex()}), "body": bomb})
    spool = open_spool(redis, MAX_BODY_BYTES="1000000")

    assert drain(spool) == []
    assert spool.count_unreadable() == 1


def test_many_forged_entries_are_one_line_in_the_log(redis: Redis) -> None:
    for _ in range(50):
        add(redis, {**HEADER, "digest": "ab" * 32})

    with capture_logs() as logs:
        drain(open_spool(redis))

    assert [(entry["event"], entry["not_signed"]) for entry in logs] == [("spool.entries_set_aside", 50)]


def test_deliveries_of_a_removed_secret_are_moved_once_it_is_set_again(redis: Redis) -> None:
    old = make_delivery(BODY, OLD_SECRET)
    open_spool(redis, OLD_SECRET).put(old)
    assert drain(open_spool(redis)) == []

    rotated = open_spool(redis, f"{SECRET},{OLD_SECRET}")
    assert rotated.restore_set_aside() == 1

    assert drain(rotated) == [old]
    assert (rotated.count(), rotated.count_unreadable()) == (0, 0)


def test_a_process_without_a_secret_leaves_the_spool_and_names_the_setting(redis: Redis) -> None:
    open_spool(redis).put(DELIVERY)
    blind = open_spool(redis, "")

    with pytest.raises(SecretMissing, match=r"1 delivery in the spool .* set TRUTO_WEBHOOK_SECRET"):
        drain(blind)

    assert (blind.count(), blind.count_unreadable()) == (1, 0)


def test_a_secret_pinned_to_another_webhook_verifies_nothing(redis: Redis) -> None:
    add(redis, HEADER)
    spool = open_spool(redis, f"another={SECRET}")

    assert drain(spool) == []
    assert spool.count_unreadable() == 1


def test_the_account_of_an_entry_is_that_of_its_body(redis: Redis) -> None:
    add(redis, {**HEADER, "integrated_account_id": "another"})
    spool = open_spool(redis)

    assert (spool.count_for_account("a"), spool.count_for_account("another")) == (1, 0)
    assert (spool.erase("a"), spool.count()) == (1, 0)


def test_a_long_spool_is_drained_in_parts(redis: Redis) -> None:
    spool = open_spool(redis)
    for _ in range(40):
        spool.put(DELIVERY)

    moved = spool.drain(lambda _: None, timeout_s=0)

    assert 0 < moved < 40
    assert spool.count() == 40 - moved


def test_every_entry_is_read_whatever_its_id(redis: Redis) -> None:
    largest = 2**64 - 1
    for entry_id in ("5-0", "5-1", f"5-{largest}", "6-0", "6-7"):
        redis.xadd(KEY, {"unreadable": "1"}, id=entry_id)
    spool = open_spool(redis)

    drain(spool)

    assert (spool.count(), spool.count_unreadable()) == (0, 5)
