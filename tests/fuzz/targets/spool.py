"""Fuzz target: entries of the spool, made by a client of Redis without a secret."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

from redis import Redis
from structlog.testing import capture_logs

from app.clock import utc_now
from app.config.settings import read_settings
from app.redis.spool import Spool
from app.store.compression import compress
from app.store.models import DeliveryState, IncomingDelivery

SECRET = "0b6ad2b7-5cf4-4b19-9d0e-5d9e7ad0a4a1"
_NAMESPACE = "fuzz"
_MAX_BODY_BYTES = 1024 * 1024
_ENTRY_ID = b"1-0"
_SIGNED = b"signed\n"


def check(content: bytes) -> None:
    """Check that an entry is delivered only with a signed body, and else set aside.

    content: the header, the seal and the compressed body, each after a line break. After a first line
    "signed", the body is plain, and Truto has signed it. Nothing is raised, no log line quotes the entry, and
    only a sealed header can refuse a delivery.
    """
    stream = _EntryStream(_build_entry(content))
    spool = Spool(cast("Redis", stream), _NAMESPACE, _SETTINGS)
    delivered: list[IncomingDelivery] = []
    with capture_logs() as lines:
        moved = spool.drain(delivered.extend)
        spool.count_for_account("account")
    assert moved == len(delivered)
    assert moved + len(stream.set_aside) == 1, "the entry is lost, or there twice"
    assert not stream.entries
    assert all(set(line) <= {"event", "log_level", "not_signed", "unreadable", "moved_to"} for line in lines)
    for delivery in delivered:
        mac = hmac.digest(SECRET.encode(), delivery.body, hashlib.sha256)
        assert delivery.digest == mac, "the body is not signed"
        assert len(delivery.body) <= _MAX_BODY_BYTES
        assert delivery.received_at <= utc_now(), "the entry arrived in the future"
        assert delivery.state != DeliveryState.REFUSED, "an unsealed entry refuses a run"


def _build_entry(content: bytes) -> dict[bytes, bytes]:
    if content.startswith(_SIGNED):
        _, header, body = (*content.split(b"\n", 2), b"")[:3]
        digest = hmac.digest(SECRET.encode(), body, hashlib.sha256).hex().encode()
        return {b"header": header.replace(b"DIGEST", digest), b"body": compress([body])[0], b"seal": b""}
    values = content.split(b"\n", 2)
    return dict(zip((b"header", b"seal", b"body"), values, strict=False))


class _EntryStream:
    """A Redis with one stream, in memory: a server takes a thousand times as long.

    Only the commands that draining uses. set_aside: the entries that were added.
    """

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        self.entries = {_ENTRY_ID: fields}
        self.set_aside: list[Mapping[Any, Any]] = []

    def xrange(self, _key: str, *, min: bytes, **_: int) -> Sequence[Any]:  # noqa: A002  # redis-py's name
        return list(self.entries.items()) if min == b"-" else []

    def xlen(self, _key: str) -> int:
        return len(self.entries)

    def xadd(self, _key: str, fields: Mapping[Any, Any]) -> None:
        self.set_aside.append(fields)

    def xdel(self, _key: str, *entry_ids: bytes) -> int:
        return sum(self.entries.pop(entry_id, None) is not None for entry_id in entry_ids)

    def execute(self) -> list[Any]:
        return []

    def pipeline(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Commands have run already."""


_SETTINGS = read_settings({"TRUTO_WEBHOOK_SECRET": SECRET, "MAX_BODY_BYTES": str(_MAX_BODY_BYTES)})
