"""The RQ queue, which spreads the ids of pending deliveries over workers."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Protocol
from uuid import UUID, uuid4

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.serializers import JSONSerializer
from rq.utils import utcparse

from app.clock import utc_now
from app.plural import format_count
from app.redis.connection import is_wrong_type, queue_unavailable

# The namespace of releases whose keys named no receiver: `rapidbridge`, `rapidbridge:spool`.
UNNAMED = ""
NAMESPACES_KEY = "rapidbridge:namespaces"
JOB_FUNCTION = "workers.jobs.deliver"
LOAD_FUNCTION = "workers.jobs.load"
LONG_LOAD_FUNCTION = "workers.jobs.load_long"
# With the time to save results, it must end within the 30 s between a platform's SIGTERM and SIGKILL.
JOB_TIMEOUT_S = 18
# Loads are interrupted at SIGTERM, and begin again: they may take longer than the platform's limit.
LOAD_TIMEOUTS_S: Mapping[str, int] = {LOAD_FUNCTION: 30, LONG_LOAD_FUNCTION: 300}
# RQ spends milliseconds on a job, so a busy receiver puts several deliveries into one.
IDS_PER_JOB = 32
# A job of large deliveries has fewer: others wait for it.
MAX_JOB_BYTES = 4 * 1024 * 1024
# A larger backlog stays in the inbox, from which the feeder enqueues: the accounts take turns, and Redis does
# not fill up.
_JOBS_PER_WORKER = 2
# Without feeders and workers, web processes fill the queue no further.
MAX_JOBS = 128
# The feeder renews it while deliveries wait in the inbox for their turn.
_BACKLOG_TTL_S = 5
# RQ's, with the keys of a queue's workers.
WORKERS_KEY = "rq:workers:{}"
# No receiver has more; others were written by somebody else.
_MAX_WORKERS = 1000
_MAX_NAMESPACES = 1000
# The characters of REDIS_NAMESPACE: messages quote a namespace in commands to paste.
_NAMESPACE = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
# The command that returns the length of a key, by its type.
_LENGTH = {"list": Pipeline.llen, "set": Pipeline.scard, "zset": Pipeline.zcard, "stream": Pipeline.xlen}
FAILED_JOB_TTL_S = 3600
# An idle worker sends a heartbeat every 15 s, a busy one with each job. RQ forgets a dead one after minutes.
_WORKER_LIVES = timedelta(seconds=45)
# A heartbeat of the future would count until then, whoever wrote it.
_MAX_CLOCK_DIFFERENCE = timedelta(minutes=1)


class DueDelivery(Protocol):
    """A delivery to enqueue."""

    @property
    def id(self) -> UUID: ...
    @property
    def body_bytes(self) -> int: ...
    @property
    def attempts(self) -> int: ...
    @property
    def lost_attempts(self) -> int: ...


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """The load of the queue.

    jobs: that wait for a worker. workers: at least 1. has_backlog: deliveries in the inbox wait for their
    turn. has_unqueued: a web process left deliveries in the inbox.
    """

    jobs: int
    workers: int
    has_backlog: bool
    has_unqueued: bool

    @property
    def max_jobs(self) -> int:
        """The number of jobs that keeps all workers busy."""
        return _JOBS_PER_WORKER * self.workers


def format_key(namespace: str, *parts: str) -> str:
    """Return the key of a receiver in Redis. namespace: the receiver's, or UNNAMED."""
    return ":".join(("rapidbridge", *filter(None, (namespace,)), *parts))


def list_namespaces(connection: Redis) -> set[str]:
    """Return the namespaces of at most 1,000 receivers that have used this Redis; raises QueueUnavailable."""
    try:
        members = list(islice(connection.sscan_iter(NAMESPACES_KEY), _MAX_NAMESPACES))
    except RedisError as error:
        raise queue_unavailable(error) from error
    return {member.decode() for member in members if _NAMESPACE.fullmatch(member)}


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
        self._backlog_key = format_key(namespace, "backlog")
        self._unqueued_key = format_key(namespace, "unqueued")
        self._queue = Queue(self.name, connection=connection, serializer=JSONSerializer)

    def count_queued(self) -> int:
        """Return the number of jobs that wait for a worker."""
        try:
            return self._queue.count
        except RedisError as error:
            raise queue_unavailable(error) from error

    def read_load(self, *, takes_unqueued: bool = False) -> QueueLoad:
        """Return how full the queue is, in one round trip. takes_unqueued: also clear `has_unqueued`."""
        try:
            with self._queue.connection.pipeline(transaction=False) as pipeline:
                pipeline.llen(self._queue.key)
                pipeline.scard(WORKERS_KEY.format(self.name))
                pipeline.exists(self._backlog_key)
                pipeline.delete(self._unqueued_key) if takes_unqueued else pipeline.exists(self._unqueued_key)
                jobs, workers, has_backlog, has_unqueued = pipeline.execute()
        except RedisError as error:
            raise queue_unavailable(error) from error
        return QueueLoad(jobs, max(1, workers), bool(has_backlog), bool(has_unqueued))

    def report_unqueued(self) -> None:
        """Let the feeder search the inbox at once, for deliveries that this process did not enqueue."""
        self._set(self._unqueued_key)

    def report_backlog(self, *, exists: bool) -> None:
        """Let web processes leave new deliveries in the inbox, or enqueue them."""
        if exists:
            self._set(self._backlog_key)
        else:
            try:
                self._queue.connection.delete(self._backlog_key)
            except RedisError as error:
                raise queue_unavailable(error) from error

    def _set(self, key: str) -> None:
        try:
            self._queue.connection.set(key, 1, ex=_BACKLOG_TTL_S)
        except RedisError as error:
            raise queue_unavailable(error) from error

    def enqueue(self, deliveries: Sequence[DueDelivery]) -> None:
        """Enqueue deliveries in one round trip, several in each job.

        A delivery whose worker died gets a job of its own: it may kill the next worker as well.
        """
        batchable = [delivery for delivery in deliveries if not delivery.lost_attempts]
        groups = [*_group(batchable), *([delivery] for delivery in deliveries if delivery.lost_attempts)]
        if not groups:
            return
        jobs = [
            Queue.prepare_data(
                JOB_FUNCTION,
                args=([str(delivery.id) for delivery in group],),
                timeout=JOB_TIMEOUT_S,
                result_ttl=0,
                failure_ttl=FAILED_JOB_TTL_S,
                description=format_count(len(group), "delivery"),
                job_id=_job_id(group),
            )
            for group in groups
        ]
        try:
            self._queue.enqueue_many(jobs)
        except RedisError as error:
            raise queue_unavailable(error) from error

    def enqueue_loads(self, ids: Sequence[UUID], *, function: str = LOAD_FUNCTION) -> None:
        """Enqueue loads, each in a job of its own. function: LOAD_FUNCTION or LONG_LOAD_FUNCTION."""
        jobs = [
            Queue.prepare_data(
                function,
                args=(str(id_),),
                timeout=LOAD_TIMEOUTS_S[function],
                result_ttl=0,
                failure_ttl=FAILED_JOB_TTL_S,
                description="load",
                job_id=f"load-{id_}-{uuid4().hex[:8]}",
            )
            for id_ in ids
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
        prefix = Worker.redis_worker_namespace_prefix.encode()
        try:
            keys = list(
                islice(self._queue.connection.sscan_iter(WORKERS_KEY.format(self.name)), _MAX_WORKERS)
            )
            with self._queue.connection.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.hget(key, "last_heartbeat")
                heartbeats = pipeline.execute(raise_on_error=False)
        except RedisError as error:
            raise queue_unavailable(error) from error
        now = utc_now()
        return {
            key.removeprefix(prefix).decode(errors="replace")
            for key, heartbeat in zip(keys, heartbeats, strict=True)
            if key.startswith(prefix) and _is_recent(heartbeat, now)
        }

    def repair(self) -> list[str]:
        """Delete keys of another type or of an impossible length; return their names.

        Neither holds a delivery, only ids. Jobs may be lost: `has_marker` is false then.
        """
        connection, limits = self._queue.connection, self._list_key_limits()
        try:
            with connection.pipeline(transaction=False) as pipeline:
                for key, (type_, _) in limits.items():
                    _LENGTH[type_](pipeline, key)
                lengths = pipeline.execute(raise_on_error=False)
                lock_ttl_s = connection.ttl(self._queue.registry_cleaning_key)
            damaged = [
                key
                for (key, (_, limit)), length in zip(limits.items(), lengths, strict=True)
                if is_wrong_type(length) or (isinstance(length, int) and length > limit)
            ]
            # RQ's lock always expires. Without an end, nobody would clean up after dead workers.
            damaged += [self._queue.registry_cleaning_key] if lock_ttl_s == -1 else []
            if damaged:
                connection.unlink(*damaged)
            if damaged:
                # Workers lose the jobs that they take meanwhile, whichever key it is.
                connection.unlink(self._marker_key)
        except RedisError as error:
            raise queue_unavailable(error) from error
        return damaged

    def _list_key_limits(self) -> dict[str, tuple[str, int]]:
        """Return the type and the largest length of every key that the receiver uses."""
        queue = self._queue
        unlimited = 2**63
        return {
            queue.key: ("list", 100 * MAX_JOBS),
            queue.intermediate_queue_key: ("list", 100 * MAX_JOBS),
            queue.started_job_registry.key: ("zset", 100 * MAX_JOBS),
            queue.failed_job_registry.key: ("zset", 1000 * MAX_JOBS),
            WORKERS_KEY.format(self.name): ("set", _MAX_WORKERS),
            Worker.redis_workers_keys: ("set", unlimited),
            Queue.redis_queues_keys: ("set", unlimited),
            NAMESPACES_KEY: ("set", unlimited),
            format_key(self.namespace, "spool"): ("stream", unlimited),
            format_key(self.namespace, "spool", "unreadable"): ("stream", unlimited),
        }

    def remove_worker(self, worker: str) -> None:
        """Remove a dead worker from the live ones."""
        key = f"{Worker.redis_worker_namespace_prefix}{worker}"
        try:
            with self._queue.connection.pipeline() as pipeline:
                pipeline.srem(Worker.redis_workers_keys, key)
                pipeline.srem(WORKERS_KEY.format(self.name), key)
                pipeline.delete(key)
                pipeline.execute()
        except RedisError as error:
            raise queue_unavailable(error) from error

    def delete(self) -> None:
        """Delete the queue and its jobs. The feeder enqueues their deliveries again."""
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


def _group(deliveries: Sequence[DueDelivery]) -> Iterator[Sequence[DueDelivery]]:
    group: list[DueDelivery] = []
    size = 0
    for delivery in deliveries:
        size += delivery.body_bytes
        if group and (len(group) == IDS_PER_JOB or size > MAX_JOB_BYTES):
            yield group
            group, size = [], delivery.body_bytes
        group.append(delivery)
    if group:
        yield group


def _job_id(group: Sequence[DueDelivery]) -> str:
    # The attempt distinguishes retries of one delivery, the random part two jobs for the same attempt.
    return f"{group[0].id}-{len(group)}-attempt-{max(due.attempts for due in group) + 1}-{uuid4().hex[:8]}"


def _is_recent(heartbeat: object, now: datetime) -> bool:
    """Whether a worker with this heartbeat, as Redis returns it, is alive."""
    try:
        at = utcparse(heartbeat.decode()) if isinstance(heartbeat, bytes) else None
    except ValueError:
        return False
    return at is not None and now - _WORKER_LIVES < at < now + _MAX_CLOCK_DIFFERENCE
