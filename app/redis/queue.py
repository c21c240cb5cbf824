"""The RQ queue, which spreads the ids of pending deliveries over workers."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID, uuid4

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.serializers import JSONSerializer

from app.plural import format_count
from app.redis.connection import queue_unavailable

QUEUE_NAME = "rapidbridge"
JOB_FUNCTION = "workers.jobs.deliver"
# With the time to save results, it must end within the 30 s between a platform's SIGTERM and SIGKILL.
JOB_TIMEOUT_S = 18
# RQ spends milliseconds on a job, so a busy receiver puts several deliveries into one.
IDS_PER_JOB = 32
# A larger backlog stays in the inbox, from which the sweeper enqueues: Redis must not fill up.
MAX_JOBS = 128
# Disappears with the queue if Redis loses its data.
_MARKER_KEY = "rapidbridge:remembers"
_FAILED_JOB_TTL_S = 3600


class DueDelivery(Protocol):
    """A delivery to enqueue."""

    @property
    def id(self) -> UUID: ...
    @property
    def attempts(self) -> int: ...
    @property
    def lost_attempts(self) -> int: ...


class DeliveryQueue:
    """The one RQ queue. Every method raises QueueUnavailable."""

    def __init__(self, connection: Redis) -> None:
        self._queue = Queue(QUEUE_NAME, connection=connection, serializer=JSONSerializer)

    def has_capacity(self) -> bool:
        """Whether the queue holds fewer than MAX_JOBS jobs."""
        try:
            return self._queue.count < MAX_JOBS
        except RedisError as error:
            raise queue_unavailable(error) from error

    def enqueue(self, deliveries: Sequence[DueDelivery]) -> None:
        """Enqueue deliveries in one round trip, IDS_PER_JOB in each job.

        A delivery whose worker died gets a job of its own: it may kill the next worker as well.
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
                description=format_count(len(group), "delivery"),
                job_id=_job_id(group),
            )
            for group in groups
        ]
        try:
            self._queue.enqueue_many(jobs)
        except RedisError as error:
            raise queue_unavailable(error) from error

    def has_marker(self) -> bool:
        """Whether Redis has kept its data since `set_marker`."""
        try:
            return bool(self._queue.connection.exists(_MARKER_KEY))
        except RedisError as error:
            raise queue_unavailable(error) from error

    def set_marker(self) -> None:
        """Write the marker by which `has_marker` detects that Redis lost its data."""
        try:
            self._queue.connection.set(_MARKER_KEY, 1)
        except RedisError as error:
            raise queue_unavailable(error) from error

    def count_workers(self) -> int:
        """Return the number of live workers. A killed worker counts for up to two more minutes."""
        try:
            return len(Worker.all(queue=self._queue))
        except RedisError as error:
            raise queue_unavailable(error) from error

    def count_jobs(self) -> tuple[int, int]:
        """Return the number of queued jobs, and of jobs that failed within the last hour."""
        try:
            return self._queue.count, self._queue.failed_job_registry.get_job_count(cleanup=False)
        except RedisError as error:
            raise queue_unavailable(error) from error

    def ping(self) -> None:
        """Return if Redis answers, raise otherwise."""
        try:
            self._queue.connection.ping()
        except RedisError as error:
            raise queue_unavailable(error) from error


def _job_id(group: Sequence[DueDelivery]) -> str:
    # The attempt distinguishes retries of one delivery, the random part two jobs for the same attempt.
    return f"{group[0].id}-{len(group)}-attempt-{max(due.attempts for due in group) + 1}-{uuid4().hex[:8]}"
