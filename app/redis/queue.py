"""Puts deliveries' ids onto RQ. Redis only wakes workers; what there is to do stands in the inbox."""

from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID, uuid4

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue, Worker
from rq.serializers import JSONSerializer

from app.errors import QueueUnavailable

QUEUE_NAME = "rapidbridge"
JOB_FUNCTION = "workers.jobs.deliver"
# With what it takes to settle then, shorter than the 30 s a platform leaves between SIGTERM and SIGKILL.
JOB_TIMEOUT_S = 18
# A job costs milliseconds of its own, so busy times put several deliveries into one.
IDS_PER_JOB = 32
# Redis holds at most about this many jobs, whatever the backlog: beyond, the sweeper feeds from the inbox.
MAX_JOBS = 128
_TIMEOUT_S = 2.0
# There as long as Redis remembers what was enqueued.
_MARKER_KEY = "rapidbridge:remembers"
_FAILED_JOB_TTL_S = 3600


class DueDelivery(Protocol):
    """A delivery that waits for a worker."""

    @property
    def id(self) -> UUID: ...
    @property
    def attempts(self) -> int: ...
    @property
    def lost_attempts(self) -> int: ...


def connect_redis(url: str, *, tls_verify: bool) -> Redis:
    """Prepare connections to Redis; one that does not answer is known after 2 s.

    url: redis://…, rediss://… or unix://…. tls_verify: False accepts a self-signed certificate.
    """
    options: dict[str, Any] = {} if tls_verify or not url.startswith("rediss:") else {"ssl_cert_reqs": "none"}
    return Redis.from_url(
        url,
        socket_connect_timeout=_TIMEOUT_S,
        socket_timeout=_TIMEOUT_S,
        # The client's default of ten retries outlasts every request. One is for pooled connections that died
        # while idle; pushing an id twice is harmless. Who stalls once would stall again.
        retry=Retry(ConstantBackoff(0.1), 1, supported_errors=(RedisConnectionError,)),
        **options,
    )


class DeliveryQueue:
    """The one RQ queue. Every method raises QueueUnavailable."""

    def __init__(self, connection: Redis) -> None:
        self._queue = Queue(QUEUE_NAME, connection=connection, serializer=JSONSerializer)

    def has_capacity(self) -> bool:
        """Whether jobs are few enough to add more."""
        try:
            return self._queue.count < MAX_JOBS
        except RedisError as error:
            raise _unavailable(error) from error

    def enqueue(self, deliveries: Sequence[DueDelivery]) -> None:
        """Wake workers for these deliveries in one round trip, IDS_PER_JOB to a job.

        One that a worker never came back from gets a job of its own: it must not take others along again.
        """
        batchable = [delivery for delivery in deliveries if not delivery.lost_attempts]
        groups = [batchable[start : start + IDS_PER_JOB] for start in range(0, len(batchable), IDS_PER_JOB)]
        groups += [[delivery] for delivery in deliveries if delivery.lost_attempts]
        jobs = [
            Queue.prepare_data(
                JOB_FUNCTION,
                args=([str(delivery.id) for delivery in group],),
                timeout=JOB_TIMEOUT_S,
                result_ttl=0,
                failure_ttl=_FAILED_JOB_TTL_S,
                description=f"{len(group)} deliveries",
                job_id=_job_id(group),
            )
            for group in groups
        ]
        try:
            self._queue.enqueue_many(jobs)
        except RedisError as error:
            raise _unavailable(error) from error

    def has_marker(self) -> bool:
        """Whether Redis still holds what was enqueued since `remember`; not once it was wiped."""
        try:
            return bool(self._queue.connection.exists(_MARKER_KEY))
        except RedisError as error:
            raise _unavailable(error) from error

    def set_marker(self) -> None:
        """Begin to tell by `remembers` whether Redis is wiped."""
        try:
            self._queue.connection.set(_MARKER_KEY, 1)
        except RedisError as error:
            raise _unavailable(error) from error

    def count_workers(self) -> int:
        """Return how many workers live; one that was killed counts for up to two minutes more."""
        try:
            return len(Worker.all(queue=self._queue))
        except RedisError as error:
            raise _unavailable(error) from error

    def count_jobs(self) -> tuple[int, int]:
        """Return how many jobs wait, and how many have failed within the last hour."""
        try:
            return self._queue.count, self._queue.failed_job_registry.get_job_count(cleanup=False)
        except RedisError as error:
            raise _unavailable(error) from error

    def ping(self) -> None:
        """Return if Redis answers."""
        try:
            self._queue.connection.ping()
        except RedisError as error:
            raise _unavailable(error) from error


def _job_id(group: Sequence[DueDelivery]) -> str:
    # The attempt tells retries of one delivery apart, the rest two jobs for the same attempt.
    return f"{group[0].id}-{len(group)}-attempt-{max(due.attempts for due in group) + 1}-{uuid4().hex[:8]}"


def _unavailable(error: RedisError) -> QueueUnavailable:
    return QueueUnavailable(f"Redis failed ({type(error).__name__}): is REDIS_URL right and up?")
