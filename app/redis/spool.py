"""The spool: a Redis stream that keeps deliveries while the database is unavailable.

Redis is not trusted: a delivery leaves the spool only if Truto signed its body.
"""

import hashlib
import hmac
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

import structlog
from redis import Redis
from redis.exceptions import RedisError

from app.clock import utc_now
from app.encryption import Keyring, find_key_id
from app.errors import EncryptionKeyMissing, SecretMissing, SignatureError, UnreadableDelivery
from app.plural import format_count
from app.redis.connection import queue_unavailable
from app.redis.queue import NAMESPACES_KEY, format_key
from app.store.compression import compress, decompress
from app.store.incoming import OriginRules, read_incoming
from app.store.models import DeliveryState, IncomingDelivery, Receipt
from app.truto.coerce import as_object, as_text, as_time
from app.truto.events import read_envelope

# Limits of one commit while draining; the last body may exceed the bytes.
_MAX_DELIVERIES_PER_STEP = 16
_MAX_BYTES_PER_STEP = 16 * 1024 * 1024
# A header has about 700 bytes. The body has long values in full.
_MAX_HEADER_BYTES = 128 * 1024
_MAX_HEADER_VALUE_CHARS = 500
# The difference of Truto's clock and ours that is tolerated in an entry without a seal.
_CLOCK_DIFFERENCE = timedelta(hours=1)
# Keeps a seal apart from a webhook's signature, which is a MAC with the same key.
_SEAL_CONTEXT = b"rapidbridge spool entry\0"

_EntryFields = Mapping[bytes, bytes]

log = structlog.get_logger()


class Spool:
    """Keeps deliveries in order until the inbox has them. Every method raises QueueUnavailable.

    Only as durable as Redis: without persistence, a restart of Redis loses them.
    namespace: of the receiver, so that no other receiver takes its deliveries. origin: the settings to verify
    and seal deliveries with; None for a spool that is only counted.
    """

    def __init__(self, redis: Redis, namespace: str, origin: OriginRules | None = None) -> None:
        self._redis = redis
        self._namespace = namespace
        self._origin = origin
        self.key = format_key(namespace, "spool")
        # Entries that cannot be moved to the inbox, so that they do not block the entries behind them.
        self.unreadable_key = format_key(namespace, "spool", "unreadable")

    def put(self, delivery: IncomingDelivery) -> Receipt:
        """Store a delivery. The spool does not detect duplicates."""
        [compressed] = compress([delivery.body])
        body = self._keyring.encrypt(compressed, _build_body_context(delivery.digest.hex()))
        header = json.dumps(_build_header(delivery)).encode()
        entry = {"header": header, "body": body, "seal": next(self._compute_seals(header), "")}
        try:
            with self._redis.pipeline() as pipeline:
                # `doctor` of every receiver shows what waits here, even if this one has never had a worker.
                pipeline.sadd(NAMESPACES_KEY, self._namespace)
                pipeline.xadd(self.key, entry)  # type: ignore[arg-type]  # redis-py's alias rejects str and bytes together
                # The set of namespaces may be damaged: only the entry matters.
                _, added = pipeline.execute(raise_on_error=False)
                if isinstance(added, RedisError):
                    raise added
        except RedisError as error:
            raise queue_unavailable(error) from error
        refusal_reason = delivery.reason if delivery.state == DeliveryState.REFUSED else None
        return Receipt(
            delivery.delivery_id, is_duplicate=False, is_spooled=True, refusal_reason=refusal_reason
        )

    def count(self) -> int:
        """Return the number of deliveries in the spool."""
        return self._count(self.key)

    def count_unreadable(self) -> int:
        """Return the number of entries that were set aside."""
        return self._count(self.unreadable_key)

    def drain(
        self,
        put: Callable[[Sequence[IncomingDelivery]], object],
        *,
        sets_aside: bool = True,
        timeout_s: float = math.inf,
    ) -> int:
        """Pass all verified deliveries to `put`, oldest first, delete them, and return their number.

        sets_aside: also set aside the entries that no secret verifies; False leaves them to their owner.
        timeout_s: start no further commit after that. Errors of `put` are passed on. Concurrent calls pass
        the same deliveries: `put` must be idempotent. Raises SecretMissing if deliveries wait.
        """
        origin = self._origin
        if origin is None or not origin.secret_values:
            if waiting := self.count():
                raise SecretMissing(_explain_missing_secret(waiting))
            return 0
        moved, deadline = 0, time.monotonic() + timeout_s
        batch: dict[bytes, IncomingDelivery] = {}
        faults: Counter[str] = Counter()
        try:
            for entry_id, fields in self._read_entries(self.key):
                try:
                    batch[entry_id] = self._read_delivery(fields, origin)
                except SignatureError:
                    if sets_aside:
                        faults["not_signed"] += self._move(entry_id, fields, self.unreadable_key)
                except EncryptionKeyMissing:
                    # Not a reason to wait: anyone who reaches Redis can add such an entry.
                    faults["key_missing"] += self._move(entry_id, fields, self.unreadable_key)
                except (ValueError, KeyError):
                    faults["unreadable"] += self._move(entry_id, fields, self.unreadable_key)
                if _is_full(batch):
                    moved += self._commit(batch, put)
                if time.monotonic() > deadline:
                    break
            return moved + self._commit(batch, put)
        except RedisError as error:
            raise queue_unavailable(error) from error
        finally:
            if faults:
                # One line for all: anyone who reaches Redis can add entries.
                log.error("spool.entries_set_aside", **faults, moved_to=self.unreadable_key)

    def restore_set_aside(self) -> int:
        """Move the entries that were set aside back to the spool; return their number."""
        try:
            # The number is limited: `drain` may set entries aside meanwhile.
            waiting = self.count_unreadable()
            return sum(
                self._move(entry_id, fields, self.key, source=self.unreadable_key)
                for (entry_id, fields), _ in zip(
                    self._read_entries(self.unreadable_key), range(waiting), strict=False
                )
            )
        except RedisError as error:
            raise queue_unavailable(error) from error

    def count_outdated_keys(self) -> int:
        """Return the number of entries that are encrypted with another key than the current one."""
        current = self._keyring.current.id if self._keyring.current else None
        try:
            return sum(
                1
                for key in (self.key, self.unreadable_key)
                for _, fields in self._read_entries(key)
                if find_key_id(fields.get(b"body", b"")) not in (None, current)
            )
        except RedisError as error:
            raise queue_unavailable(error) from error

    def count_for_account(self, account: str) -> int:
        """Return the number of deliveries of an integrated account."""
        return sum(1 for _ in self._find_entries(account))

    def erase(self, account: str) -> int:
        """Delete the deliveries of an integrated account; return their number."""
        try:
            return sum(int(self._redis.xdel(self.key, entry_id)) for entry_id in self._find_entries(account))
        except RedisError as error:
            raise queue_unavailable(error) from error

    def _count(self, key: str) -> int:
        try:
            return int(self._redis.xlen(key))
        except RedisError as error:
            raise queue_unavailable(error) from error

    def _find_entries(self, account: str) -> Iterator[bytes]:
        try:
            for entry_id, fields in self._read_entries(self.key):
                if self._read_account_id(fields) == account:
                    yield entry_id
        except RedisError as error:
            raise queue_unavailable(error) from error

    def _read_entries(self, key: str) -> Iterator[tuple[bytes, _EntryFields]]:
        after = b"-"
        # One at a time: an entry includes its body.
        while entries := cast(
            "list[tuple[bytes, _EntryFields]]", self._redis.xrange(key, min=after, count=1)
        ):
            [(entry_id, fields)] = entries
            after = _compute_next_id(entry_id)
            yield entry_id, fields

    def _commit(
        self,
        batch: dict[bytes, IncomingDelivery],
        put: Callable[[Sequence[IncomingDelivery]], object],
    ) -> int:
        """Move the deliveries of a batch to the inbox, empty the batch, and return their number."""
        if not batch:
            return 0
        put(list(batch.values()))
        # Delete after the commit: a crash in between leaves a duplicate, not a gap.
        self._redis.xdel(self.key, *batch)
        moved = len(batch)
        batch.clear()
        return moved

    def _move(self, entry_id: bytes, fields: _EntryFields, target: str, *, source: str = "") -> int:
        with self._redis.pipeline() as pipeline:
            pipeline.xadd(target, fields or {"empty": ""})  # type: ignore[arg-type]  # redis-py's alias rejects bytes
            pipeline.xdel(source or self.key, entry_id)
            pipeline.execute()
        return 1

    def _read_delivery(self, fields: _EntryFields, origin: OriginRules) -> IncomingDelivery:
        """Return the delivery of an entry, read anew from its body.

        Only the seal makes the header trustworthy: without it, a refusal is ignored, and the time is limited.
        Raises SignatureError, or ValueError or KeyError for an unreadable entry.
        """
        header = _parse_header(fields[b"header"])
        body = self._read_body(fields, header)
        digest = bytes.fromhex(as_text(header.get("digest")))
        now = utc_now()
        received_at = min(now, as_time(header.get("received_at")) or now)
        delivery = read_incoming(body, digest, received_at, origin=origin)
        seals = list(self._compute_seals(fields[b"header"]))
        if not any(hmac.compare_digest(seal, fields.get(b"seal", b"")) for seal in seals):
            return replace(delivery, received_at=_limit_time(received_at, delivery.envelope.created_at, now))
        delivery = replace(delivery, traceparent=as_text(header.get("traceparent")))
        if header.get("state") == DeliveryState.REFUSED:
            return replace(delivery, state=DeliveryState.REFUSED, reason=as_text(header.get("reason")))
        return delivery

    def _compute_seals(self, header: bytes) -> Iterator[bytes]:
        """Yield the seal of a header with each secret. The header includes the signature of the body."""
        message = _SEAL_CONTEXT + self._namespace.encode() + b"\0" + header
        for secret in self._origin.secret_values if self._origin else ():
            yield hmac.digest(secret.encode(), message, hashlib.sha256).hex().encode()

    def _read_account_id(self, fields: _EntryFields) -> str | None:
        try:
            # Not from the header, which anyone who reaches Redis can change.
            body = self._read_body(fields, _parse_header(fields[b"header"]))
            return read_envelope(body).integrated_account_id
        except (ValueError, KeyError, UnreadableDelivery):
            return None

    @property
    def _keyring(self) -> Keyring:
        return self._origin.encryption_keys if self._origin else Keyring()

    def _read_body(self, fields: _EntryFields, header: Mapping[str, Any]) -> bytes:
        """Return the body of an entry; raises ValueError, KeyError or EncryptionKeyMissing."""
        context = _build_body_context(as_text(header.get("digest")))
        compressed = self._keyring.decrypt(fields[b"body"], context)
        return decompress(compressed, max_bytes=self._origin.max_body_bytes if self._origin else None)


def _build_body_context(digest: str) -> bytes:
    """Return the context in which the body of an entry is encrypted; see Keyring."""
    return b"spooled body " + digest.encode("utf-8", "surrogatepass")


def _compute_next_id(entry_id: bytes) -> bytes:
    """Return the smallest id after another one; exclusive ranges need Redis 6.2."""
    time_ms, _, sequence = entry_id.partition(b"-")
    next_time_ms, next_sequence = divmod((int(time_ms) << 64) + int(sequence) + 1, 1 << 64)
    return b"%d-%d" % (next_time_ms, next_sequence)


def _is_full(batch: Mapping[bytes, IncomingDelivery]) -> bool:
    return (
        len(batch) >= _MAX_DELIVERIES_PER_STEP
        or sum(len(delivery.body) for delivery in batch.values()) >= _MAX_BYTES_PER_STEP
    )


def _limit_time(received_at: datetime, created_at: datetime | None, now: datetime) -> datetime:
    """Return the time of an entry without a seal, but none before the signed creation of its event."""
    if created_at and created_at - received_at > _CLOCK_DIFFERENCE:
        return min(now, created_at)
    return received_at


def _explain_missing_secret(waiting: int) -> str:
    return (
        f"{format_count(waiting, 'delivery')} in the spool cannot be verified: set TRUTO_WEBHOOK_SECRET for "
        "the workers to the same value as for the web processes, and restart the workers"
    )


def _parse_header(text: bytes) -> dict[str, Any]:
    """Return the members of a header; raises ValueError."""
    if len(text) > _MAX_HEADER_BYTES:
        raise ValueError("the header is too long")
    try:
        return as_object(json.loads(text))
    except RecursionError as error:
        raise ValueError("the header is nested too deeply") from error


def _build_header(delivery: IncomingDelivery) -> dict[str, str | None]:
    """Return an entry's header. Its member names are a stored format: they stay when attributes change."""
    envelope = delivery.envelope
    header = {
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
        **({"traceparent": delivery.traceparent} if delivery.traceparent else {}),
    }
    return {name: value and value[:_MAX_HEADER_VALUE_CHARS] for name, value in header.items()}
