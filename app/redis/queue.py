"""The RQ queue, which spreads the ids of pending deliveries over workers."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol, cast
from uuid import UUID, uuid4

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.serializers import JSONSerializer

from app.clock import utc_now
from app.plural import format_count
from app.redis.connection import queue_unavailable

# The namespace of releases whose keys named no receiver: `rapidbridge`, `rapidbridge:spool`.
UNNAMED = ""
NAMESPACES_KEY = "rapidbridge:namespaces"
JOB_FUNCTION = "workers.jobs.deliver"
# With the time to save results, it must end within the 30 s between a platform's SIGTERM and SIGKILL.
JOB_TIMEOUT_S = 18
# RQ spends milliseconds on a job, so a busy receiver puts several deliveries into one.
IDS_PER_JOB = 32
# A larger backlog stays in the inbox, from which the sweeper enqueues: Redis must not fill up.
MAX_JOBS = 128
# RQ's, with the keys of a queue's workers.
_WORKERS_KEY = "rq:workers:{}"
_FAILED_JOB_TTL_S = 3600
# An idle worker sends a heartbeat every 15 s, a busy one with each job. RQ forgets a dead one after minutes.
_WORKER_LIVES = timedelta(seconds=45)


class DueDelivery(Protocol):
    """A delivery to enqueue."""

    @property
    def id(self) -> UUID: ...
    @property
    def attempts(self) -> int: ...
    @property
    def lost_attempts(self) -> int: ...


def format_key(namespace: str, *parts: str) -> str:
    """Return the key of a receiver in Redis. namespace: the receiver's, or UNNAMED."""
    return ":".join(("rapidbridge", *filter(None, (namespace,)), *parts))


def list_namespaces(connection: Redis) -> set[str]:
    """Return the namespaces of all receivers that have used this Redis; raises QueueUnavailable."""
    try:
        members = cast("set[bytes]", connection.smembers(NAMESPACES_KEY))
    except RedisError as error:
        raise queue_unavailable(error) from error
    return {member.decode(errors="replace") for member in members}


class DeliveryQueue:
    """The one RQ queue of a receiver. Every method raises QueueUnavailable.

    namespace: of the receiver, so that receivers can share a Redis. It is a part of the queue's name, and RQ
    makes all keys of a queue, its workers included, of that name.
    """

    def __init__(self, connection: Redis, namespace: str) -> None:
        self.name = format_key(namespace)
        self.namespace = namespace
        # Disappears with the queue if Redis loses its data.
        self._marker_key = format_key(namespace, "remembers")
        self._queue = Queue(self.name, connection=connection, serializer=JSONSerializer)

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
            return bool(self._queue.connection.exists(self._marker_key))
        except RedisError as error:
            raise queue_unavailable(error) from error

    def set_marker(self) -> None:
        """Write the marker by which `has_marker` detects that Redis lost its data."""
        try:
            with self._queue.connection.pipeline() as pipeline:
                pipeline.set(self._marker_key, 1)
                pipeline.sadd(NAMESPACES_KEY, self.namespace)
                pipeline.execute()
        except RedisError as error:
            raise queue_unavailable(error) from error

    def count_workers(self) -> int:
        """Return the number of live workers. A killed worker counts for up to 45 more seconds."""
        return len(self.list_workers())

    def list_workers(self) -> set[str]:
        """Return the names of the live workers. A killed worker counts for up to 45 more seconds."""
        live_since = utc_now() - _WORKER_LIVES
        try:
            return {
                worker.name
                for worker in Worker.all(queue=self._queue)
                if worker.last_heartbeat is None or worker.last_heartbeat > live_since
            }
        except RedisError as error:
            raise queue_unavailable(error) from error

    def remove_worker(self, worker: str) -> None:
        """Remove a dead worker from the live ones."""
        key = f"{Worker.redis_worker_namespace_prefix}{worker}"
        try:
            with self._queue.connection.pipeline() as pipeline:
                pipeline.srem(Worker.redis_workers_keys, key)
                pipeline.srem(_WORKERS_KEY.format(self.name), key)
                pipeline.delete(key)
                pipeline.execute()
        except RedisError as error:
            raise queue_unavailable(error) from error

    def delete(self) -> None:
        """Delete the queue and its jobs. The sweeper enqueues their deliveries again."""
        try:
            self._queue.delete(delete_jobs=True)
            self._queue.connection.delete(self._marker_key)
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
