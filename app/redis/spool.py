"""The spool: a Redis stream that keeps deliveries while the database is unavailable."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, cast

import structlog
from redis import Redis
from redis.exceptions import RedisError

from app.redis.connection import queue_unavailable
from app.redis.queue import NAMESPACES_KEY, format_key
from app.store.compression import compress, decompress
from app.store.models import DeliveryState, IncomingDelivery, Receipt
from app.truto.events import Envelope

# Limits of one commit while draining; the last body may exceed the bytes.
_MAX_DELIVERIES_PER_STEP = 16
_MAX_BYTES_PER_STEP = 16 * 1024 * 1024

_EntryFields = dict[bytes, bytes]

log = structlog.get_logger()


class Spool:
    """Keeps deliveries in order until the inbox has them. Every method raises QueueUnavailable.

    Only as durable as Redis: without persistence, a restart of Redis loses them.
    namespace: of the receiver, so that no other receiver takes its deliveries.
    """

    def __init__(self, redis: Redis, namespace: str) -> None:
        self._redis = redis
        self._namespace = namespace
        self.key = format_key(namespace, "spool")
        # Unreadable entries are moved here, so that they do not block the entries behind them.
        self.unreadable_key = format_key(namespace, "spool", "unreadable")

    def put(self, delivery: IncomingDelivery) -> Receipt:
        """Store a delivery. The spool does not detect duplicates."""
        [body] = compress([delivery.body])
        entry = {"header": json.dumps(_build_header(delivery)), "body": body}
        try:
            with self._redis.pipeline() as pipeline:
                # `doctor` of every receiver shows what waits here, even if this one has never had a worker.
                pipeline.sadd(NAMESPACES_KEY, self._namespace)
                pipeline.xadd(self.key, entry)  # type: ignore[arg-type]  # redis-py's alias rejects str and bytes together
                pipeline.execute()
        except RedisError as error:
            raise queue_unavailable(error) from error
        refusal_reason = delivery.reason if delivery.state == DeliveryState.REFUSED else None
        return Receipt(
            delivery.delivery_id, is_duplicate=False, is_spooled=True, refusal_reason=refusal_reason
        )

    def count(self) -> int:
        """Return the number of deliveries in the spool."""
        try:
            return int(self._redis.xlen(self.key))
        except RedisError as error:
            raise queue_unavailable(error) from error

    def drain(
        self,
        put: Callable[[Sequence[IncomingDelivery]], object],
        *,
        accepts: Callable[[IncomingDelivery], bool] = lambda _: True,
    ) -> int:
        """Pass all accepted deliveries to `put`, oldest first, delete them, and return their number.

        Errors of `put` are passed on. Concurrent calls pass the same deliveries: `put` must be idempotent.
        """
        moved, after = 0, b"-"
        try:
            while True:
                deliveries, after = self._read_next(after, accepts)
                if not deliveries:
                    return moved
                put(list(deliveries.values()))
                # Delete after the commit: a crash in between leaves a duplicate, not a gap.
                self._redis.xdel(self.key, *deliveries)
                moved += len(deliveries)
        except RedisError as error:
            raise queue_unavailable(error) from error

    def count_for_account(self, account: str) -> int:
        """Return the number of deliveries of an integrated account."""
        return sum(1 for _ in self._find_entries(account))

    def count_unreadable(self) -> int:
        """Return the number of unreadable entries that were set aside."""
        try:
            return int(self._redis.xlen(self.unreadable_key))
        except RedisError as error:
            raise queue_unavailable(error) from error

    def erase(self, account: str) -> int:
        """Delete the deliveries of an integrated account; return their number."""
        removed = 0
        for entry_id in self._find_entries(account):
            try:
                removed += int(self._redis.xdel(self.key, entry_id))
            except RedisError as error:
                raise queue_unavailable(error) from error
        return removed

    def _find_entries(self, account: str) -> Iterator[bytes]:
        after = b"-"
        while True:
            try:
                # One at a time: an entry includes its body.
                entries = cast(
                    "list[tuple[bytes, _EntryFields]]", self._redis.xrange(self.key, min=after, count=1)
                )
            except RedisError as error:
                raise queue_unavailable(error) from error
            if not entries:
                return
            [(entry_id, fields)] = entries
            after = b"(" + entry_id
            if _read_account_id(fields) == account:
                yield entry_id

    def _read_next(
        self, after: bytes, accepts: Callable[[IncomingDelivery], bool]
    ) -> tuple[dict[bytes, IncomingDelivery], bytes]:
        """Return the deliveries of one commit by the ids of their entries, and the place of the next ones."""
        deliveries: dict[bytes, IncomingDelivery] = {}
        size = 0
        while len(deliveries) < _MAX_DELIVERIES_PER_STEP and size < _MAX_BYTES_PER_STEP:
            entries = cast(
                "list[tuple[bytes, _EntryFields]]", self._redis.xrange(self.key, min=after, count=1)
            )
            if not entries:
                break
            [(entry_id, fields)] = entries
            after = b"(" + entry_id
            try:
                delivery = _parse_delivery(fields)
            except (ValueError, TypeError, KeyError) as error:
                self._set_aside(entry_id, fields, error)
                continue
            if accepts(delivery):
                deliveries[entry_id] = delivery
                size += len(delivery.body)
        return deliveries, after

    def _set_aside(self, entry_id: bytes, fields: _EntryFields, error: Exception) -> None:
        with self._redis.pipeline() as pipeline:
            pipeline.xadd(self.unreadable_key, fields or {"empty": ""})  # type: ignore[arg-type]  # redis-py's alias rejects bytes
            pipeline.xdel(self.key, entry_id)
            pipeline.execute()
        log.error("spool.entry_set_aside", fault=type(error).__name__, moved_to=self.unreadable_key)


def _build_header(delivery: IncomingDelivery) -> dict[str, str | None]:
    """Return an entry's header. Its member names are a stored format: they stay when attributes change."""
    envelope = delivery.envelope
    return {
        "digest": delivery.digest.hex(),
        "received_at": delivery.received_at.isoformat(),
        "state": delivery.state,
        "reason": delivery.reason,
        "event_id": envelope.event_id,
        "event": envelope.event,
        "webhook_id": envelope.webhook_id,
        "environment_id": envelope.environment_id,
        "sync_job_id": envelope.sync_job_id,
        "sync_job_run_id": envelope.sync_job_run_id,
        "integrated_account_id": envelope.integrated_account_id,
        "resource": envelope.resource,
        "method": envelope.method,
        "created_at": envelope.created_at.isoformat() if envelope.created_at else None,
    }


def _read_account_id(fields: _EntryFields) -> str | None:
    try:
        return str(json.loads(fields[b"header"])["integrated_account_id"])
    except (ValueError, TypeError, KeyError):
        # `drain` sets unreadable entries aside.
        return None


def _parse_delivery(fields: _EntryFields) -> IncomingDelivery:
    """Return the delivery of an entry. Unknown members are ignored, missing members are empty."""
    header: dict[str, Any] = json.loads(fields[b"header"])
    received_at = datetime.fromisoformat(header["received_at"])
    body = decompress(fields[b"body"])
    created_at = header.get("created_at")
    return IncomingDelivery(
        body=body,
        # The first release wrote no digest: it hashed the body.
        digest=bytes.fromhex(header["digest"]) if "digest" in header else hashlib.sha256(body).digest(),
        received_at=received_at,
        envelope=Envelope(
            event_id=header.get("event_id", ""),
            event=header.get("event", ""),
            created_at=datetime.fromisoformat(created_at) if created_at else None,
            webhook_id=header.get("webhook_id", ""),
            environment_id=header.get("environment_id", ""),
            sync_job_run_id=header.get("sync_job_run_id", ""),
            sync_job_id=header.get("sync_job_id", ""),
            integrated_account_id=header.get("integrated_account_id", ""),
            resource=header.get("resource", ""),
            method=header.get("method", ""),
        ),
        state=DeliveryState(header["state"]),
        reason=header.get("reason", ""),
    )
