"""Requests with `test` events, observed by the web processes while `rapidbridge webhook probe` runs.

Their headers are stored nowhere else. The probe may also have one of them rejected, to see Truto's retry.
"""

import json
from dataclasses import asdict, dataclass
from hashlib import sha256

from redis import Redis
from redis.exceptions import RedisError

from app.redis.connection import queue_unavailable
from app.redis.queue import format_key
from app.truto.coerce import as_object, as_text

TEST_EVENT = "test"
# A probe that was killed ends by itself: no probe takes longer.
_TTL_S = 3600
# Truto sends the event within seconds.
_REJECTION_TTL_S = 60
_MAX_REQUESTS = 20
_DIGEST_CHARS = 16


@dataclass(frozen=True, slots=True)
class ObservedTest:
    """One request with a `test` event.

    encoding: of its MAC. has_format: whether the signature's header names the format. content_type: the media
    type, "" without the header. event_digest, body_digest: equal for equal event ids and bodies. at_s: of the
    receiver's clock. is_rejected: whether it was answered 503.
    """

    encoding: str
    has_format: bool
    content_type: str
    event_digest: str
    body_digest: str
    at_s: float
    is_rejected: bool = False


def digest_text(text: str | bytes) -> str:
    """Return a short digest, which does not reveal the text."""
    content = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
    return sha256(content).hexdigest()[:_DIGEST_CHARS]


class ObservedTests:
    """The observed requests of one probe. Every method raises QueueUnavailable.

    Redis is not trusted: entries of another form are left out.
    """

    def __init__(self, redis: Redis, namespace: str) -> None:
        self._redis = redis
        self._webhook_key = format_key(namespace, "probe", "webhook")
        self._rejection_key = format_key(namespace, "probe", "rejection")
        self._requests_key = format_key(namespace, "probe", "requests")

    def start(self, webhook_id: str) -> None:
        """Have the `test` events of a webhook observed; this ends another probe."""
        try:
            self._redis.delete(self._requests_key, self._rejection_key)
            self._redis.set(self._webhook_key, webhook_id, ex=_TTL_S)
        except RedisError as error:
            raise queue_unavailable(error) from error

    def reject_next(self) -> None:
        """Have the next `test` event answered 503, once."""
        try:
            self._redis.set(self._rejection_key, "1", ex=_REJECTION_TTL_S)
        except RedisError as error:
            raise queue_unavailable(error) from error

    def stop(self) -> None:
        """End the probe, and forget its requests."""
        try:
            self._redis.delete(self._webhook_key, self._requests_key, self._rejection_key)
        except RedisError as error:
            raise queue_unavailable(error) from error

    def observes(self, webhook_id: str) -> bool:
        """Whether a probe of this webhook runs. webhook_id: "" for an event that names none."""
        try:
            probed = self._redis.get(self._webhook_key)
        except RedisError as error:
            raise queue_unavailable(error) from error
        return probed is not None and webhook_id.encode() in (b"", probed)

    def take_rejection(self) -> bool:
        """Whether the request must be rejected; of several processes, one gets True."""
        try:
            return bool(self._redis.delete(self._rejection_key))
        except RedisError as error:
            raise queue_unavailable(error) from error

    def add(self, request: ObservedTest) -> None:
        """Store an observed request; only the newest are kept."""
        try:
            self._redis.rpush(self._requests_key, json.dumps(asdict(request)))
            self._redis.ltrim(self._requests_key, -_MAX_REQUESTS, -1)
            self._redis.expire(self._requests_key, _TTL_S)
        except RedisError as error:
            raise queue_unavailable(error) from error

    def list_requests(self) -> list[ObservedTest]:
        """Return the observed requests, oldest first."""
        try:
            entries: list[bytes] = self._redis.lrange(self._requests_key, 0, -1)  # type: ignore[assignment]
        except RedisError as error:
            raise queue_unavailable(error) from error
        return [request for entry in entries if (request := _read_request(entry))]


def _read_request(entry: bytes) -> ObservedTest | None:
    try:
        members = as_object(json.loads(entry))
        return ObservedTest(
            encoding=as_text(members["encoding"]),
            has_format=members["has_format"] is True,
            content_type=as_text(members["content_type"]),
            event_digest=as_text(members["event_digest"]),
            body_digest=as_text(members["body_digest"]),
            at_s=float(members["at_s"]),
            is_rejected=members["is_rejected"] is True,
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
